package tlsfront

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/internal/acmetest"
)

// reservePort returns an address on loopback that nobody listens on, and its port.
func reservePort(t *testing.T) (address string, port int) {
	t.Helper()
	ln := loopback(t)
	address = ln.Addr().String()
	ln.Close()
	_, text, _ := net.SplitHostPort(address)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return address, port
}

// acmeRig is an ACME server and what a front needs to use it.
type acmeRig struct {
	t       *testing.T
	server  *acmetest.Server
	address string // where challenges are asked for
	dir     string // storage
	roots   *x509.CertPool
	logs    *syncLines
}

func newACMERig(t *testing.T, cfg acmetest.Config) *acmeRig {
	t.Helper()
	if testing.Short() {
		t.Skip("works with a real ACME server, which takes seconds")
	}
	// What certmagic and Pebble never stop: the refresh of a lock up to 5 s after its end, rate limiters, validation workers.
	here := []goleak.Option{
		goleak.IgnoreCurrent(),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	}
	t.Cleanup(func() { goleak.VerifyNone(t, here...) })
	r := &acmeRig{t: t, dir: filepath.Join(t.TempDir(), "acme"), roots: x509.NewCertPool(), logs: &syncLines{}}
	r.address, cfg.Port = reservePort(t)
	r.server = acmetest.Start(t, cfg)
	r.roots.AppendCertsFromPEM(r.server.Root)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", r.logs.String())
		}
	})
	return r
}

// config is one that works, for domains and a challenge.
func (r *acmeRig) config(challenge Challenge, domains ...string) ACMEConfig {
	r.t.Helper()
	standIn, err := OpenLocalCA(filepath.Join(filepath.Dir(r.dir), "ca"), domains, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.server.APIRoot)
	return ACMEConfig{
		Domains: domains, Directory: r.server.Directory, Roots: roots, Challenge: challenge, ChallengeAddress: r.address,
		Dir: r.dir, StandIn: standIn.GetCertificate,
		Logger: slog.New(slog.NewJSONHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
}

// acmeFront is an ACME at work behind a listener for clients.
type acmeFront struct {
	*ACME
	t       *testing.T
	address string
	stop    func()
}

// serve runs an ACME and a listener for clients. Challenges are answered on the listener itself where it has their address,
// else on a listener of their own.
func (r *acmeRig) serve(cfg ACMEConfig, sameAddress bool) *acmeFront {
	r.t.Helper()
	a, err := NewACME(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	listen := func(address string) net.Listener {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			r.t.Fatal(err)
		}
		return ln
	}
	address := "127.0.0.1:0"
	switch {
	case sameAddress:
		address = cfg.ChallengeAddress
	case cfg.Challenge != ChallengeDNS:
		ln := listen(cfg.ChallengeAddress)
		parts.Go(func() { _ = a.ServeChallenges(ctx, ln) })
	}
	ln := listen(address)
	front := Config{TLS: ServerConfig(a.GetCertificate, 0), Challenges: a.Challenges(), Logger: cfg.Logger}
	parts.Go(func() { _ = front.Serve(ctx, ln, sayNotNow) })
	parts.Go(func() { a.Run(ctx) })
	f := &acmeFront{ACME: a, t: r.t, address: ln.Addr().String()}
	f.stop = sync.OnceFunc(func() {
		cancel()
		ln.Close()
		parts.Wait()
	})
	r.t.Cleanup(f.stop)
	return f
}

// presented is the certificate that a client sees which asks for a name, "" for none.
func (f *acmeFront) presented(name string) *x509.Certificate {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	client := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{alpn}})
	if err := client.Handshake(); err != nil {
		f.t.Fatalf("handshake for %q: %v", name, err)
	}
	if got := client.ConnectionState().NegotiatedProtocol; got != alpn {
		f.t.Errorf("negotiated %q, want %q", got, alpn)
	}
	return client.ConnectionState().PeerCertificates[0]
}

// wait waits until a condition holds.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

func (f *acmeFront) waitReady() {
	f.t.Helper()
	wait(f.t, "all certificates are there", f.Ready)
}

// wantValid checks that a client which verifies fully gets in by these names.
func (f *acmeFront) wantValid(roots *x509.CertPool, names ...string) {
	f.t.Helper()
	for _, name := range names {
		sni := name
		if net.ParseIP(name) != nil {
			sni = "" // clients send none
		}
		leaf := f.presented(sni)
		intermediates := x509.NewCertPool()
		for _, cert := range f.chain(sni) {
			intermediates.AddCert(cert)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates}); err != nil {
			f.t.Errorf("certificate for %q: %v", name, err)
		}
	}
}

// chain is what was presented behind the leaf.
func (f *acmeFront) chain(name string) []*x509.Certificate {
	f.t.Helper()
	cert, err := f.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
	if err != nil {
		f.t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, der := range cert.Certificate[1:] {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			f.t.Fatal(err)
		}
		chain = append(chain, parsed)
	}
	return chain
}

// syncLines is lines for many writers and readers at once.
type syncLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *syncLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *syncLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// messages are the messages logged so far, in their order.
func (l *syncLines) messages(t *testing.T) []string {
	t.Helper()
	var parsed lines
	parsed.WriteString(l.String())
	var list []string
	for _, line := range parsed.parse(t) {
		list = append(list, line["msg"].(string))
	}
	return list
}
