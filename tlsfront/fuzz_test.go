package tlsfront

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// FuzzOpening sends bytes to a running front, in clear or inside TLS, and then nothing more. Whatever they are, the
// connection ends; and a client is handed over exactly when the bytes open one, read by a model of the negotiation that
// is simple because nobody here can do half a handshake.
func FuzzOpening(f *testing.F) {
	session := startup(3, 0, parameters)
	for _, seed := range []string{
		"", session, cancelRequest, sslRequest, gssencRequest, gssencRequest + session, gssencRequest + gssencRequest,
		gssencRequest + sslRequest, sslRequest + session, session + "Q", startup(2, 0, ""), startup(4, 0, parameters),
		startup(3, 0, "user\x00bob"), startup(3, 9999, parameters), "GET / HTTP/1.1\r\n\r\n", "p\x00\x00\x00\x0bsecret\x00",
		"\x16\x03\x01\x00\x04\x01\x00\x00\x00", sslRequest + "\x16\x03\x01\x00\x04\x01\x00\x00\x00", "\x7f\xff\xff\xff",
		cancelRequest[:12], "\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x00\x01\x02\x03\x04",
	} {
		f.Add([]byte(seed), false, false)
		f.Add([]byte(seed), false, true)
		f.Add([]byte(seed), true, false)
	}
	fronts := map[bool]*fuzzedFront{false: startFuzzedFront(f, false), true: startFuzzedFront(f, true)}
	f.Fuzz(func(t *testing.T, data []byte, clearly, inside bool) {
		front := fronts[clearly]
		answer := front.say(t, data, inside)
		want, opens := expected(data, clearly, inside)
		select {
		case got := <-front.clients:
			if !opens || !equal(got.Opening, want) {
				t.Errorf("%q handed over as %+v", data, got.Opening)
			}
			if (got.TLS != nil) != inside {
				t.Errorf("%q handed over with TLS %t", data, got.TLS != nil)
			}
		default:
			if opens {
				t.Errorf("%q not handed over, want %+v", data, want)
			}
		}
		if len(data) >= 4 && bytes.Contains(answer, data) {
			t.Errorf("%q came back in %q", data, answer)
		}
	})
}

// fuzzedFront is a front that closes each client at once and keeps it to be asked for.
type fuzzedFront struct {
	addr    net.Addr
	clients chan *Client
}

func startFuzzedFront(f *testing.F, plaintextAllowed bool) *fuzzedFront {
	f.Helper()
	ln, err := net.Listen("unix", filepath.Join(f.TempDir(), "s")) // no ports to run out of
	if err != nil {
		f.Fatal(err)
	}
	ca, err := OpenLocalCA(f.TempDir(), []string{"db.example.com"}, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	config := Config{TLS: ServerConfig(ca.GetCertificate, 0), PlaintextAllowed: plaintextAllowed, LoginTimeout: patience}
	front, done := &fuzzedFront{ln.Addr(), make(chan *Client, 1)}, make(chan error, 1)
	go func() {
		done <- config.Serve(context.Background(), ln, func(_ context.Context, c *Client) {
			front.clients <- c // before the close, which the other side waits for
			c.Conn.Close()
		})
	}()
	f.Cleanup(func() {
		ln.Close()
		if err := <-done; err != nil {
			f.Errorf("Serve: %v", err)
		}
	})
	return front
}

// say sends data as all that a client has to say, and returns all that the front answered until it closed.
func (f *fuzzedFront) say(t *testing.T, data []byte, inside bool) []byte {
	t.Helper()
	conn, err := net.Dial(f.addr.Network(), f.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, conn)
	if inside {
		p = byDirectTLS(p)
	}
	_, _ = p.Write(data) // the front may have closed before the last of it
	_ = p.Conn.(interface{ CloseWrite() error }).CloseWrite()
	answer, err := io.ReadAll(p)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("%q: the connection does not end", data)
	}
	return answer
}

// expected says whether data opens a connection, and how.
func expected(data []byte, clearly, inside bool) (wire.Opening, bool) {
	r := bytes.NewReader(data)
	opening, err := wire.ReadOpening(r)
	if err == nil && opening.Kind == wire.KindGSSENC && !inside {
		opening, err = wire.ReadOpening(r)
	}
	switch {
	case err != nil:
		return wire.Opening{}, false
	case opening.Kind == wire.KindStartup:
		return opening, clearly || inside
	default:
		return opening, opening.Kind == wire.KindCancel
	}
}

func equal(a, b wire.Opening) bool {
	return a.Kind == b.Kind &&
		a.Startup.Version == b.Startup.Version && slices.Equal(a.Startup.Params, b.Startup.Params) &&
		a.Cancel.ProcessID == b.Cancel.ProcessID && bytes.Equal(a.Cancel.Key, b.Cancel.Key)
}
