package admission

import (
	"io"
	"net"
	"testing"
)

// TestListen has more connections come than there are places, and then one go.
func TestListen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := New(Limits{Logins: 2})
	bounded := g.Listen(ln)
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := bounded.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	dial()
	first := <-accepted
	dial()
	second := <-accepted
	if n, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("beyond the limit: read %d bytes, %v, want it to be closed", n, err)
	}
	_, _ = first.Close(), first.Close()
	dial()
	third := <-accepted
	if s := g.Stats(); s.Logins != 2 || s.Late != 0 {
		t.Errorf("got %+v, want two places taken", s)
	}
	_, _, _ = second.Close(), third.Close(), ln.Close()
	if _, more := <-accepted; more {
		t.Error("one more was accepted")
	}
	if s := g.Stats(); s.Logins != 0 {
		t.Errorf("%d places are still taken", s.Logins)
	}
}
