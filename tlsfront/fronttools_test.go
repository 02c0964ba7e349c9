package tlsfront

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/replicon/pgreplicaproxy/wire"
	"go.uber.org/goleak"
)

// patience bounds every wait of these tests; it is never what a test measures.
const patience = time.Minute

// Opening packets, byte for byte ("Message Formats").
const (
	sslRequest    = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	gssencRequest = "\x00\x00\x00\x08\x04\xd2\x16\x30"
	cancelRequest = "\x00\x00\x00\x10\x04\xd2\x16\x2e" + "\x00\x00\x00\x07" + "\x01\x02\x03\x04"
	parameters    = "user\x00bob\x00database\x00app\x00\x00"
)

// startup is a StartupMessage of a protocol version, with anything as its parameters.
func startup(major, minor uint16, parameters string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(parameters)))
	b = binary.BigEndian.AppendUint16(b, major)
	b = binary.BigEndian.AppendUint16(b, minor)
	return string(b) + parameters
}

// front is a running listener and the record of the clients that it handed over.
type front struct {
	ln     net.Listener
	cancel context.CancelFunc // of the context of Serve
	done   chan struct{}      // closed when Serve has returned
	err    error              // what it returned

	mu      sync.Mutex
	clients []*Client
}

// startFront serves ln. Without a handler every client is told 57P03. It ends with the test, and leaves no goroutine.
func startFront(t *testing.T, ln net.Listener, config Config, handle Handler) *front {
	t.Helper()
	here := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, here) })
	if config.TLS == nil {
		config.TLS = fileConfig(t, 0)
	}
	if handle == nil {
		handle = sayNotNow
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &front{ln: ln, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.err = config.Serve(ctx, ln, func(ctx context.Context, c *Client) {
			f.mu.Lock()
			f.clients = append(f.clients, c)
			f.mu.Unlock()
			handle(ctx, c)
		})
	}()
	t.Cleanup(func() {
		cancel()
		f.stop(t)
	})
	return f
}

// sayNotNow refuses a client in the words of a server that is starting up.
func sayNotNow(_ context.Context, c *Client) {
	defer c.Conn.Close()
	if c.Opening.Kind == wire.KindStartup {
		answer := &wire.ErrorResponse{Code: wire.CannotConnectNow, Message: "not now"}
		b, _ := answer.AppendBinary(nil)
		_, _ = c.Conn.Write(b)
	}
}

// stop closes the listener, waits for Serve and returns all clients there were.
func (f *front) stop(t *testing.T) []*Client {
	t.Helper()
	f.ln.Close()
	select {
	case <-f.done:
	case <-time.After(patience):
		t.Fatal("Serve does not return")
	}
	if f.err != nil {
		t.Errorf("Serve: %v", f.err)
	}
	return f.clients
}

// wantNoClient stops the front and fails if any connection became a client.
func (f *front) wantNoClient(t *testing.T) {
	t.Helper()
	for _, c := range f.stop(t) {
		t.Errorf("handed over: %+v", c.Opening)
	}
}

// dial connects to the front.
func (f *front) dial(t *testing.T) *peer {
	t.Helper()
	addr := f.ln.Addr()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, conn)
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// peer is the far end of a connection to a front, spoken for byte by byte.
type peer struct {
	net.Conn
	t *testing.T
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{conn, t}
}

// send writes all packets at once.
func (p *peer) send(packets ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p, strings.Join(packets, "")); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// want reads exactly the answer that is expected.
func (p *peer) want(answer string) {
	p.t.Helper()
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(p, got); err != nil || string(got) != answer {
		p.t.Fatalf("answer %q, %v, want %q", got, err, answer)
	}
}

// startTLS does the handshake and returns the peer inside.
func (p *peer) startTLS(config *tls.Config) *peer {
	p.t.Helper()
	conn := tls.Client(p.Conn, config)
	if err := conn.Handshake(); err != nil {
		p.t.Fatalf("handshake: %v", err)
	}
	return &peer{conn, p.t}
}

// rest reads until the front has closed the connection. A reset counts as closing: the kernel sends one instead when not
// all that was sent to the front was read.
func (p *peer) rest() string {
	p.t.Helper()
	got, err := io.ReadAll(p)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		p.t.Fatalf("read %q, then %v instead of the end", got, err)
	}
	return string(got)
}

// wantSilence reads until the front has closed the connection without a word.
func (p *peer) wantSilence() {
	p.t.Helper()
	if got := p.rest(); got != "" {
		p.t.Errorf("answered with %q, want only the end", got)
	}
}

// refusal reads an ErrorResponse and the end behind it. It is read by pgproto3, not by the code under test.
func (p *peer) refusal() *pgproto3.ErrorResponse {
	p.t.Helper()
	answer := strings.NewReader(p.rest())
	message, err := pgproto3.NewFrontend(answer, io.Discard).Receive()
	if err != nil {
		p.t.Fatalf("no message to read: %v", err)
	}
	response, ok := message.(*pgproto3.ErrorResponse)
	if !ok {
		p.t.Fatalf("answered with %T, want an ErrorResponse", message)
	}
	if answer.Len() != 0 {
		p.t.Errorf("%d bytes behind the ErrorResponse", answer.Len())
	}
	if response.Severity != "FATAL" || response.SeverityUnlocalized != "FATAL" {
		p.t.Errorf("severity %q, %q, want FATAL", response.Severity, response.SeverityUnlocalized)
	}
	return response
}

// libpq is the TLS of a client with sslmode=require: no verification, and ALPN as given.
func libpq(protocols ...string) *tls.Config {
	config := careless("db.example.com")
	config.NextProtos = protocols
	return config
}
