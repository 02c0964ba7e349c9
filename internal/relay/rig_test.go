package relay_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/internal/socket"
)

// patience bounds every wait of a test. It is no expectation: only what hangs ever sees it.
const patience = 30 * time.Second

// TestMain fails when a socket is left open at the end; each rig looks for goroutines itself.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := openSockets(); left > 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d sockets are still open after all tests\n", left)
		code = 1
	}
	os.Exit(code)
}

// openSockets counts the sockets of this process, where the system shows them.
func openSockets() (n int) {
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		if target, err := os.Readlink(name); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

// rig is a relay between two peers that the test plays.
type rig struct {
	t      testing.TB
	config relay.Config
	relay  *relay.Relay
	client *peer
	server *peer
	ended  chan relay.Result
	lost   atomic.Int32 // calls of Lost
	dying  bool         // the server has said its last, so that it is lost whoever closes first
}

// legs makes a rig over TCP, each leg with or without TLS. The relay is not started yet.
func legs(t testing.TB, clientTLS, serverTLS bool) *rig {
	return newRig(t, "tcp", clientTLS, serverTLS)
}

func newRig(t testing.TB, network string, clientTLS, serverTLS bool) *rig {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	r := &rig{t: t, ended: make(chan relay.Result, 2)}
	r.config.Ended = func(result relay.Result) { r.ended <- result }
	r.config.Lost = func() { r.lost.Add(1) }
	var near *socket.Socket
	near, r.client = connect(t, network)
	r.config.Client.Conn = encrypt(t, near, r.client, clientTLS, true)
	near, r.server = connect(t, network)
	r.config.Server.Conn = encrypt(t, near, r.server, serverTLS, false)
	return r
}

// eachLegs runs test over all four combinations of plain and TLS legs.
func eachLegs(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, l := range fourLegs {
		t.Run(l.name, func(t *testing.T) { test(t, legs(t, l.clientTLS, l.serverTLS)) })
	}
}

var fourLegs = []struct {
	name                 string
	clientTLS, serverTLS bool
}{
	{"plain-plain", false, false},
	{"tls-plain", true, false},
	{"plain-tls", false, true},
	{"tls-tls", true, true},
}

// socketBuffer is set on all sockets, so that a test knows about how much a connection takes from who writes to one that
// nobody reads.
const socketBuffer = 64 << 10

// connect makes a connected pair: the relay's end and the peer's.
func connect(t testing.TB, network string) (near *socket.Socket, far *peer) {
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
	dialed, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{dialed, accepted} {
		sized := conn.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		})
		if err := errors.Join(sized.SetReadBuffer(socketBuffer), sized.SetWriteBuffer(socketBuffer)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = dialed.Close() })
	near, err = socket.New(accepted)
	if err != nil {
		t.Fatal(err)
	}
	return near, &peer{Conn: dialed, raw: dialed, t: t}
}

// encrypt puts TLS on both ends of a leg if wanted. The relay is the TLS server of its client, and a client to its server.
func encrypt(t testing.TB, near *socket.Socket, far *peer, wanted, nearIsServer bool) net.Conn {
	t.Helper()
	far.deadline(patience)
	if !wanted {
		return near
	}
	near.StartTLS()
	ends := []net.Conn{strict{far.raw}, near}
	if nearIsServer {
		ends = []net.Conn{near, strict{far.raw}}
	}
	server, client := tls.Server(ends[0], serverTLS()), tls.Client(ends[1], &tls.Config{InsecureSkipVerify: true})
	failed := make(chan error, 1)
	go func() { failed <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-failed); err != nil {
		t.Fatal(err)
	}
	if nearIsServer {
		far.Conn = client
		return server
	}
	far.Conn = server
	return client
}

var serverTLS = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	}
})

// start starts the relay. At the end of the test the session must have ended, once, with both connections closed.
func (r *rig) start() *rig {
	var engine relay.Engine
	var err error
	if r.relay, err = engine.Start(r.config); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(engine.Close)
	return r
}

// result waits for the end of the session and checks what must be so after every one.
func (r *rig) result() relay.Result {
	r.t.Helper()
	var result relay.Result
	select {
	case result = <-r.ended:
	case <-time.After(patience):
		r.t.Fatal("the session did not end")
	}
	for leg, conn := range map[string]net.Conn{"client": r.config.Client.Conn, "server": r.config.Server.Conn} {
		if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			r.t.Errorf("the %s's connection was left open", leg)
		}
	}
	if got := r.relay.Stats(); got != result.Stats {
		r.t.Errorf("after the end: got %+v, want %+v", got, result.Stats)
	}
	lost := int32(0)
	if result.Cause == relay.ServerClosed || result.Cause == relay.ServerFailed || r.dying {
		lost = 1
	}
	if got := r.lost.Load(); got != lost {
		r.t.Errorf("%v: Lost was called %d times before Ended, want %d", result.Cause, got, lost)
	}
	r.t.Cleanup(func() {
		if len(r.ended) > 0 {
			r.t.Error("Ended was called twice")
		}
	})
	return result
}

// wantResult waits for the end and compares it. A want.Err is compared with errors.Is.
func (r *rig) wantResult(want relay.Result) {
	r.t.Helper()
	got := r.result()
	if !errors.Is(got.Err, want.Err) {
		r.t.Errorf("got error %v, want %v", got.Err, want.Err)
	}
	if got.Err = want.Err; got != want {
		r.t.Errorf("got %+v, want %+v", got, want)
	}
}

// close ends a session of which nothing more is to be learnt.
func (r *rig) close() {
	_ = r.client.Close()
	_ = r.server.Close()
	r.result()
}

// eventually waits for a condition that nothing signals.
func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never came true: %s", what)
		}
	}
}

// pass lets the client send request and the server answer, both exactly.
func (r *rig) pass(request, answer string) {
	r.t.Helper()
	r.client.write(request)
	r.server.expect(request)
	r.server.write(answer)
	r.client.expect(answer)
}
