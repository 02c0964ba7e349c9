package backends

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/socket"
)

// tlsServer answers SSLRequest with 'S', shakes hands, and then echoes.
func tlsServer(config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		if string(readN(conn, 8)) != string(sslRequest[:]) {
			return
		}
		_, _ = conn.Write([]byte{'S'})
		secure := tls.Server(conn, config)
		_, _ = io.Copy(secure, secure)
	}
}

func TestDialPlain(t *testing.T) {
	noLeaks(t)
	echo := func(conn net.Conn) { _, _ = io.Copy(conn, conn) }
	path := filepath.Join(t.TempDir(), ".s.PGSQL.5432")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	accept(t, ln, echo)
	for _, target := range []Target{
		target(serve(t, echo), TLSOff),
		{Name: "db2", Network: "unix", Address: path},
		{Name: "db3", Network: "unix", Address: path, TLS: TLSVerifyFull}, // there is no TLS on unix sockets
	} {
		conn, err := Dial(within(t), target, Origin{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, ok := conn.Conn.(*socket.Socket); !ok || conn.Leaf != nil {
			t.Errorf("%s: connection is a %T with leaf %v", target.Name, conn.Conn, conn.Leaf)
		}
		checkEcho(t, conn)
	}
}

// checkEcho finds out that the connection works in both directions and has no deadline that has passed.
func checkEcho(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := readN(conn, 5); string(got) != "hello" {
		t.Errorf("echo is %q", got)
	}
}

func TestDialTLS(t *testing.T) {
	noLeaks(t)
	ours, theirs := newAuthority(t), newAuthority(t)
	leaf := ours.issue(t, "db1.example.com", "127.0.0.1")
	type hello struct {
		protocols  []string
		serverName string
	}
	hellos := make(chan hello, 1)
	address := serve(t, tlsServer(&tls.Config{
		Certificates: []tls.Certificate{leaf},
		NextProtos:   []string{"postgresql"},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hellos <- hello{h.SupportedProtos, h.ServerName}
			return nil, nil
		},
	}))
	untrusted := func(err error) bool { return errors.As(err, new(*tls.CertificateVerificationError)) }
	misnamed := func(err error) bool { return errors.As(err, new(x509.HostnameError)) }
	for _, c := range []struct {
		mode       TLSMode
		authority  authority
		serverName string
		fails      func(error) bool
	}{
		{TLSRequire, ours, "db1.example.com", nil},
		{TLSRequire, theirs, "db1.example.com", nil},
		{TLSRequire, ours, "db2.example.com", nil},
		{TLSVerifyCA, ours, "db1.example.com", nil},
		{TLSVerifyCA, theirs, "db1.example.com", untrusted},
		{TLSVerifyCA, ours, "db2.example.com", nil},
		{TLSVerifyFull, ours, "db1.example.com", nil},
		{TLSVerifyFull, ours, "", nil}, // the address, which the certificate has
		{TLSVerifyFull, theirs, "db1.example.com", untrusted},
		{TLSVerifyFull, ours, "db2.example.com", misnamed},
	} {
		target := target(address, c.mode)
		target.RootCAs, target.ServerName = c.authority.pool(), c.serverName
		conn, err := Dial(within(t), target, Origin{})
		sent := <-hellos
		if c.fails != nil {
			checkDialError(t, err, StageTLS)
			if !c.fails(err) {
				t.Errorf("%s, server name %q: error %v", c.mode, c.serverName, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s, server name %q: %v", c.mode, c.serverName, err)
			continue
		}
		if conn.Leaf == nil || !conn.Leaf.Equal(leaf.Leaf) {
			t.Errorf("%s: leaf is %v", c.mode, conn.Leaf)
		}
		if secure, ok := conn.Conn.(*tls.Conn); !ok || secure.ConnectionState().NegotiatedProtocol != "postgresql" {
			t.Errorf("%s: connection is a %T, without the protocol", c.mode, conn.Conn)
		} else if _, ok := secure.NetConn().(*socket.Socket); !ok {
			t.Errorf("%s: TLS is over a %T", c.mode, secure.NetConn())
		}
		if len(sent.protocols) != 1 || sent.protocols[0] != "postgresql" || sent.serverName != c.serverName {
			t.Errorf("%s: hello is %q, want server name %q", c.mode, sent, c.serverName)
		}
		checkEcho(t, conn)
		_ = conn.Close()
	}
}

func checkDialError(t *testing.T, err error, stage string) *DialError {
	t.Helper()
	var dial *DialError
	if !errors.As(err, &dial) {
		t.Fatalf("error is %v, want a DialError", err)
	}
	if dial.Backend != "db1" || dial.Stage != stage || !strings.HasPrefix(err.Error(), "dial db1: "+stage+": ") {
		t.Errorf("error is %q of stage %q, want %q", err, dial.Stage, stage)
	}
	return dial
}

// What a server, or somebody before it, can do instead of TLS. After each answer the test wants to know that Dial closed the
// connection and sent nothing more than it should.
func TestDialTLSRefused(t *testing.T) {
	const leaked = "ERROR: for your eyes only"
	for _, c := range []struct {
		name, answer, stage, text string
		hello                     bool // a TLS hello may follow the request
	}{
		{"no TLS", "N", StageSSLRequest, "does not offer TLS", false},
		{"error", "E\x00\x00\x00\x20" + leaked + "\x00", StageSSLRequest, "answered with an error", false},
		{"garbage", "HTTP/1.1 400 Bad Request\r\n", StageSSLRequest, "not a PostgreSQL server", false},
		{"nothing", "", StageSSLRequest, "EOF", false},
		{"stuffed bytes", "SR\x00\x00\x00\x08\x00\x00\x00\x00Z\x00\x00\x00\x05I", StageTLS, "tls: ", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			rest := make(chan []byte, 1)
			address := serve(t, func(conn net.Conn) {
				_ = readN(conn, 8)
				_, _ = conn.Write([]byte(c.answer))
				_ = conn.(*net.TCPConn).CloseWrite()
				sent, _ := io.ReadAll(conn)
				rest <- sent
			})
			target := target(address, TLSRequire)
			_, err := Dial(within(t), target, Origin{})
			checkDialError(t, err, c.stage)
			if !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), leaked) {
				t.Errorf("error is %q, want %q in it", err, c.text)
			}
			sent := <-rest // returns only when Dial has closed
			if c.hello && len(sent) > 0 && sent[0] != 0x16 || !c.hello && len(sent) > 0 {
				t.Errorf("Dial sent %q", sent)
			}
		})
	}
}

// countingConn fails the test's wish to read more than one byte.
type countingConn struct {
	io.Reader
	io.Writer
	largest int
}

func (c *countingConn) Read(p []byte) (int, error) {
	c.largest = max(c.largest, len(p))
	return c.Reader.Read(p)
}

func TestRequestTLSReadsOneByte(t *testing.T) {
	stuffed := strings.NewReader("S" + "stuffed")
	var sent strings.Builder
	conn := &countingConn{Reader: stuffed, Writer: &sent}
	if err := requestTLS(conn); err != nil {
		t.Fatal(err)
	}
	if conn.largest != 1 || stuffed.Len() != len("stuffed") {
		t.Errorf("asked for %d bytes, left %d", conn.largest, stuffed.Len())
	}
	if got := sent.String(); got != "\x00\x00\x00\x08\x04\xd2\x16\x2f" {
		t.Errorf("sent %q", got)
	}
}

// A server that says nothing, at each stage.
func TestDialEndsWithItsContext(t *testing.T) {
	silence := func(answer string) func(net.Conn) {
		return func(conn net.Conn) {
			_ = readN(conn, 8)
			_, _ = conn.Write([]byte(answer))
			_, _ = io.Copy(io.Discard, conn)
		}
	}
	for _, c := range []struct{ answer, stage string }{{"", StageSSLRequest}, {"S", StageTLS}} {
		for _, how := range []string{"deadline", "cancel"} {
			t.Run(c.stage+" "+how, func(t *testing.T) {
				noLeaks(t)
				target := target(serve(t, silence(c.answer)), TLSRequire)
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				want := context.DeadlineExceeded
				if how == "cancel" {
					ctx, cancel = context.WithCancel(t.Context())
					want = context.Canceled
					time.AfterFunc(50*time.Millisecond, cancel)
				}
				defer cancel()
				_, err := Dial(ctx, target, Origin{})
				dial := checkDialError(t, err, c.stage)
				if !errors.Is(err, want) || dial.Timeout() != (how == "deadline") || dial.Local() || dial.Refused() {
					t.Errorf("error is %v, timeout %t", err, dial.Timeout())
				}
			})
		}
	}
}

// The context of the dial has no hold on the connection.
func TestDialOutlivesItsContext(t *testing.T) {
	noLeaks(t)
	authority := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{authority.issue(t, "127.0.0.1")}}
	for _, target := range []Target{
		target(serve(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }), TLSOff),
		target(serve(t, tlsServer(config)), TLSRequire),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := Dial(ctx, target, Origin{})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, conn)
		_ = conn.Close()
	}
}

func TestDialNobodyThere(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	missing := Target{Name: "db1", Network: "unix", Address: filepath.Join(t.TempDir(), ".s.PGSQL.5432")}
	for _, target := range []Target{target(ln.Addr().String(), TLSRequire), missing} {
		_, err := Dial(within(t), target, Origin{})
		if dial := checkDialError(t, err, StageConnect); !dial.Refused() || dial.Local() || dial.Timeout() {
			t.Errorf("%s: refused %t, local %t, timeout %t", err, dial.Refused(), dial.Local(), dial.Timeout())
		}
	}
}

// Faults of this side are none of the server's.
func TestDialErrorLocal(t *testing.T) {
	for _, c := range []struct {
		stage string
		err   error
		want  bool
	}{
		{StageConnect, &net.OpError{Op: "dial", Err: syscall.EMFILE}, true},
		{StageConnect, &net.OpError{Op: "dial", Err: syscall.ENFILE}, true},
		{StageConnect, &net.OpError{Op: "dial", Err: syscall.ENOMEM}, true},
		{StageConnect, &net.OpError{Op: "dial", Err: syscall.EADDRNOTAVAIL}, true},
		{StageResolve, &net.DNSError{Err: "no such host", IsNotFound: true}, true},
		{StageConnect, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, false},
		{StageConnect, context.DeadlineExceeded, false},
		{StageTLS, io.EOF, false},
	} {
		if got := (&DialError{Backend: "db1", Stage: c.stage, Err: c.err}).Local(); got != c.want {
			t.Errorf("%s: %v: Local = %t, want %t", c.stage, c.err, got, c.want)
		}
	}
}

func TestDialWrongNetwork(t *testing.T) {
	_, err := Dial(t.Context(), Target{Name: "db1", Network: "udp", Address: "127.0.0.1:5432"}, Origin{})
	checkDialError(t, err, StageConnect)
}
