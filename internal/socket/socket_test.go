package socket_test

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/internal/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair makes a connection: a Socket and its peer.
func pair(t *testing.T, network string) (*socket.Socket, net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	peer, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, err := socket.New(accepted)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = peer.Close(), s.Close() })
	for _, conn := range []net.Conn{s, peer} {
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	return s, peer
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

func TestUnread(t *testing.T) {
	s, peer := pair(t, "tcp")
	write(t, peer, "connection")
	s.Unread([]byte("second "))
	s.Unread([]byte("first "))
	one := make([]byte, 1)
	for _, want := range "fir" {
		if n, err := s.Read(one); n != 1 || err != nil || rune(one[0]) != want {
			t.Fatalf("got %q, %d, %v, want %q", one, n, err, want)
		}
	}
	s.Unread([]byte("again "))
	expect(t, s, "again st second connection")
}

// TestUnreadWithoutConnection reads what was put back even where the connection has nothing more.
func TestUnreadWithoutConnection(t *testing.T) {
	s, peer := pair(t, "tcp")
	_ = peer.Close()
	s.Unread([]byte("x"))
	if got, err := io.ReadAll(s); string(got) != "x" || err != nil {
		t.Errorf("got %q, %v, want x", got, err)
	}
}

func TestCloseWrite(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s, peer := pair(t, network)
			write(t, s, "last")
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(peer); string(got) != "last" || err != nil {
				t.Errorf("got %q, %v, want last", got, err)
			}
			write(t, peer, "answer")
			expect(t, s, "answer")
		})
	}
}

// TestReset tells a TCP peer of the reset, where a close would be a plain end of file.
func TestReset(t *testing.T) {
	for network, want := range map[string]error{"tcp": syscall.ECONNRESET, "unix": io.EOF} {
		t.Run(network, func(t *testing.T) {
			s, peer := pair(t, network)
			if err := s.Reset(); err != nil {
				t.Fatal(err)
			}
			if n, err := peer.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
				t.Errorf("got %d, %v, want %v", n, err, want)
			}
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v after the reset, want %v", err, net.ErrClosed)
			}
		})
	}
}

// TestPipe takes a connection that is no socket as it is: half-close and reset are a close.
func TestPipe(t *testing.T) {
	for name, end := range map[string]func(*socket.Socket) error{"CloseWrite": (*socket.Socket).CloseWrite, "Reset": (*socket.Socket).Reset} {
		t.Run(name, func(t *testing.T) {
			near, peer := net.Pipe()
			s, err := socket.New(near)
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(peer, "x") }()
			expect(t, s, "x")
			if err := end(s); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want EOF", err)
			}
		})
	}
}
