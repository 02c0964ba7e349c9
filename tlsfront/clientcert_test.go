package tlsfront

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clientAuthority issues certificates for clients.
type clientAuthority struct {
	t    *testing.T
	root *tls.Certificate
}

func newClientAuthority(t *testing.T, name string) *clientAuthority {
	t.Helper()
	root, err := newCertificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &clientAuthority{t, root}
}

// client issues a certificate, good for clients unless change makes it something else.
func (a *clientAuthority) client(name string, change func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	cert, err := newCertificate(template, a.root)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// intermediate issues the certificate of another authority.
func (a *clientAuthority) intermediate(name string) *clientAuthority {
	a.t.Helper()
	return &clientAuthority{a.t, a.client(name, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	})}
}

// crl is the authority's list of revoked certificates, in PEM.
func (a *clientAuthority) crl(nextUpdate time.Time, revoked ...*tls.Certificate) []byte {
	a.t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: nextUpdate}
	for _, cert := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: cert.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.root.Leaf, a.root.PrivateKey.(crypto.Signer))
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// write writes the authorities' certificates, and the lists if there are any, and returns a configuration.
func writeAuthorities(t *testing.T, lists []byte, authorities ...*clientAuthority) ClientCertificateConfig {
	t.Helper()
	dir := t.TempDir()
	cfg := ClientCertificateConfig{CAFile: filepath.Join(dir, "ca.crt")}
	var certs []byte
	for _, a := range authorities {
		certs = append(certs, encodePEM("CERTIFICATE", a.root.Certificate[0])...)
	}
	writeFile(t, cfg.CAFile, certs, 0o644)
	if lists != nil {
		cfg.CRLFile = filepath.Join(dir, "ca.crl")
		writeFile(t, cfg.CRLFile, lists, 0o644)
	}
	return cfg
}

// certified is a front that checks the certificates of its clients.
func certified(t *testing.T, cfg ClientCertificateConfig, change Config) *front {
	t.Helper()
	clients, err := LoadClientCertificates(cfg)
	if err != nil {
		t.Fatal(err)
	}
	change.TLS, change.ClientCertificates = fileConfig(t, 0), clients
	clients.Ask(change.TLS)
	return startFront(t, loopback(t), change, nil)
}

// login opens a connection as a user with a certificate, nil for none, and returns what it was refused with: 57P03 by the
// handler behind the front is success.
func (f *front) login(t *testing.T, version uint16, cert *tls.Certificate, user string) (code, message string) {
	t.Helper()
	p := f.dial(t)
	p.send(sslRequest)
	p.want("S")
	config := libpq("postgresql")
	config.MaxVersion = version
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	inside := p.startTLS(config)
	inside.send(startup(3, 0, "user\x00"+user+"\x00database\x00app\x00\x00"))
	r := inside.refusal()
	return r.Code, r.Message
}

// Who is let in and who is not, and why, in words that every client can show.
func TestClientCertificates(t *testing.T) {
	authority, stranger := newClientAuthority(t, "clients"), newClientAuthority(t, "strangers")
	below := authority.intermediate("below")
	chained := below.client("chained", nil)
	chained.Certificate = append(chained.Certificate, below.root.Certificate[0])
	const good, needed = "not now", "connection requires a valid client certificate"
	for _, test := range []struct {
		name     string
		cert     *tls.Certificate
		optional string // what is told where certificates are optional
		required string // the same unless this is set
	}{
		{"none", nil, good, needed},
		{"good", authority.client("app", nil), good, ""},
		{"by an intermediate that it shows", chained, good, ""},
		{"by an intermediate that it does not show", below.client("app", nil), "client certificate is not accepted: no authority that is trusted here has signed it", ""},
		{"of strangers", stranger.client("app", nil), "client certificate is not accepted: no authority that is trusted here has signed it", ""},
		{"expired", authority.client("app", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "client certificate is not accepted: it has expired or is not valid yet", ""},
		{"of a server", authority.client("app", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "client certificate is not accepted: it is not for clients", ""},
	} {
		for _, required := range []bool{false, true} {
			cfg := writeAuthorities(t, nil, authority)
			cfg.Required = required
			want := test.optional
			if required && test.required != "" {
				want = test.required
			}
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				f := certified(t, cfg, Config{})
				code, message := f.login(t, version, test.cert, "app")
				if message != want || (code == "28000") != (want != good) {
					t.Errorf("%s, required %v, %s: %s %q, want %q", test.name, required, tls.VersionName(version), code, message, want)
				}
				for _, c := range f.stop(t) {
					if (len(c.TLS.VerifiedChains) > 0) != (test.cert != nil) {
						t.Errorf("%s: %d verified chains", test.name, len(c.TLS.VerifiedChains))
					}
				}
			}
		}
	}
}

// Where certificates are required, nobody comes in without TLS; who cancels has shown his key.
func TestClientCertificateRequiredInClear(t *testing.T) {
	cfg := writeAuthorities(t, nil, newClientAuthority(t, "clients"))
	cfg.Required = true
	logged := &lines{}
	var outcomes []Outcome
	var mu sync.Mutex
	f := certified(t, cfg, Config{PlaintextAllowed: true, Logger: slog.New(slog.NewJSONHandler(logged, nil)), Observe: func(n Negotiation) {
		mu.Lock()
		defer mu.Unlock()
		outcomes = append(outcomes, n.Outcome)
	}})
	p := f.dial(t)
	p.send(startup(3, 0, parameters))
	if r := p.refusal(); r.Code != "28000" || r.Message != "connection requires a valid client certificate" {
		t.Errorf("told %s %q", r.Code, r.Message)
	}
	for _, open := range []func(*peer) *peer{inClear, bySSLRequest} {
		p := open(f.dial(t))
		p.send(cancelRequest)
		p.wantSilence()
	}
	if n := len(f.stop(t)); n != 2 {
		t.Errorf("%d clients, want the two that cancel", n)
	}
	if got := logged.parse(t); len(got) != 1 || got[0]["stage"] != "client certificate" || got[0]["level"] != "WARN" {
		t.Errorf("logged %v", got)
	}
	if outcomes[0] != OutcomeCertificate {
		t.Errorf("outcomes %v", outcomes)
	}
}

// A revoked certificate is refused, and so is one whose authority's list is missing or has expired.
func TestRevokedClientCertificates(t *testing.T) {
	authority, other := newClientAuthority(t, "clients"), newClientAuthority(t, "others")
	below := authority.intermediate("below")
	revoked, good, foreign := authority.client("revoked", nil), authority.client("good", nil), other.client("foreign", nil)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Minute)
	under := below.client("under", nil)
	under.Certificate = append(under.Certificate, below.root.Certificate[0])
	const in = "not now"
	for _, test := range []struct {
		name  string
		lists []byte
		want  map[*tls.Certificate]string
	}{
		{"one is revoked", authority.crl(later, revoked), map[*tls.Certificate]string{
			revoked: "it was revoked", good: in, foreign: "its authority has no list of revoked certificates", under: "its authority has no list",
		}},
		{"lists of all", bytes.Join([][]byte{authority.crl(later, revoked), other.crl(later), below.crl(later, under)}, nil), map[*tls.Certificate]string{
			revoked: "it was revoked", good: in, foreign: in, under: "it was revoked",
		}},
		{"an authority is revoked", bytes.Join([][]byte{authority.crl(later, below.root), other.crl(later), below.crl(later)}, nil), map[*tls.Certificate]string{
			good: in, under: in, // for the authority below is trusted by itself, being in the file
		}},
		{"an expired list", authority.crl(past), map[*tls.Certificate]string{good: "list of revoked certificates has expired"}},
		{"an expired list before its successor", append(authority.crl(past, good), authority.crl(later, revoked)...), map[*tls.Certificate]string{revoked: "it was revoked", good: in}},
		{"an expired list behind its successor", append(authority.crl(later, revoked), authority.crl(past, good)...), map[*tls.Certificate]string{revoked: "it was revoked", good: in}},
	} {
		f := certified(t, writeAuthorities(t, test.lists, authority, other, below), Config{})
		for cert, want := range test.want {
			if _, message := f.login(t, 0, cert, "app"); !strings.Contains(message, want) {
				t.Errorf("%s: certificate of %s: %q, want %q", test.name, cert.Leaf.Subject.CommonName, message, want)
			}
		}
		f.stop(t)
	}
	expired, err := LoadClientCertificates(writeAuthorities(t, authority.crl(past), authority))
	if err != nil {
		t.Fatal(err)
	}
	if got := expired.Warnings(); len(got) != 1 || !strings.Contains(got[0], "CN=clients") || !strings.Contains(got[0], "has expired") {
		t.Errorf("warnings %q", got)
	}
	for name, cfg := range map[string]ClientCertificateConfig{
		"not signed by an authority": writeAuthorities(t, other.crl(later), authority),
		"no X509 CRL in PEM":         writeAuthorities(t, []byte("nothing"), authority),
		"no CERTIFICATE in PEM":      writeAuthorities(t, nil),
	} {
		if _, err := LoadClientCertificates(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// New authorities are taken into use by themselves, for the next client.
func TestClientAuthoritiesReload(t *testing.T) {
	first, second := newClientAuthority(t, "first"), newClientAuthority(t, "second")
	cfg := writeAuthorities(t, nil, first)
	clients, err := LoadClientCertificates(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan error, 1)
	var done sync.WaitGroup
	done.Go(func() { clients.Watch(ctx, 10*time.Millisecond, func(err error) { told <- err }) })
	defer done.Wait()
	defer cancel()
	verify := func(a *clientAuthority) error {
		_, err := clients.current.Load().verify([]*x509.Certificate{a.client("app", nil).Leaf}, time.Now())
		return err
	}
	if verify(first) != nil || verify(second) == nil {
		t.Error("before: the wrong authority")
	}
	writeFile(t, cfg.CAFile, encodePEM("CERTIFICATE", second.root.Certificate[0]), 0o644)
	if err := next(t, told); err != nil || verify(first) == nil || verify(second) != nil {
		t.Errorf("after: the wrong authority, told %v", err)
	}
	if err := os.Remove(cfg.CAFile); err != nil {
		t.Fatal(err)
	}
	if err := next(t, told); err == nil || verify(second) != nil || clients.Reload() == nil {
		t.Errorf("file removed: told %v", err)
	}
}

func TestClientMap(t *testing.T) {
	uri, err := url.Parse("spiffe://example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: "alice"}, DNSNames: []string{"a.apps.example.com", "b.example.com"},
		EmailAddresses: []string{"alice@example.com"}, URIs: []*url.URL{uri},
	}
	long := strings.Repeat("n", 64)
	for _, test := range []struct {
		name  string
		rules []ClientRule
		user  string
		want  bool
	}{
		{"no rules", nil, "anyone", true},
		{"exact", []ClientRule{{CommonName: "alice", Users: []string{"app"}}}, "app", true},
		{"another user", []ClientRule{{CommonName: "alice", Users: []string{"app"}}}, "alice", false},
		{"same user", []ClientRule{{SameUser: true}}, "alice", true},
		{"same user, another", []ClientRule{{SameUser: true}}, "bob", false},
		{"another name", []ClientRule{{CommonName: "bob", Users: []string{"app"}}}, "app", false},
		{"pattern", []ClientRule{{CommonName: "al*", Users: []string{"app"}}}, "app", true},
		{"DNS", []ClientRule{{DNSName: "*.apps.example.com", Users: []string{"app"}}}, "app", true},
		{"DNS, another", []ClientRule{{DNSName: "*.example.org", Users: []string{"app"}}}, "app", false},
		{"email", []ClientRule{{Email: "*@example.com", Users: []string{"app"}}}, "app", true},
		{"URI", []ClientRule{{URI: "spiffe://example.com/*", Users: []string{"app"}}}, "app", true},
		{"a name of another kind", []ClientRule{{DNSName: "alice*", Users: []string{"app"}}}, "app", false},
		{"all of a rule", []ClientRule{{CommonName: "alice", Email: "bob@example.com", Users: []string{"app"}}}, "app", false},
		{"any of the rules", []ClientRule{{CommonName: "bob", Users: []string{"app"}}, {CommonName: "alice", Users: []string{"app"}}}, "app", true},
		{"a name that servers would cut", []ClientRule{{Users: []string{long}}}, long, false},
		{"nobody", []ClientRule{{Users: []string{""}}}, "", true}, // which is refused elsewhere
	} {
		if got := mayUse(test.rules, cert, test.user); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	authority := newClientAuthority(t, "clients")
	cfg := writeAuthorities(t, nil, authority)
	cfg.Map = []ClientRule{{SameUser: true}}
	f := certified(t, cfg, Config{})
	for user, want := range map[string]string{"alice": "not now", "bob": `client certificate of "alice" may not log in as user "bob"`} {
		if _, message := f.login(t, 0, authority.client("alice", nil), user); message != want {
			t.Errorf("as %s: %q, want %q", user, message, want)
		}
	}
	if _, message := f.login(t, 0, nil, "bob"); message != "not now" {
		t.Errorf("without a certificate: %q", message)
	}
}

// fragments cuts the first record that is written, a ClientHello, into many small ones.
type fragments struct {
	net.Conn
	cut bool
}

func (f *fragments) Write(b []byte) (int, error) {
	if f.cut {
		return f.Conn.Write(b)
	}
	f.cut = true
	const header = 5
	var cut []byte
	for rest := b[header:]; len(rest) > 0; {
		n := min(7, len(rest))
		cut = append(append(append(cut, b[:3]...), 0, byte(n)), rest[:n]...)
		rest = rest[n:]
	}
	if _, err := f.Conn.Write(cut); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Traefik CVE-2026-32305: a ClientHello in many records leads nobody around the certificate that is asked for.
func TestClientCertificateFragmentedHello(t *testing.T) {
	authority := newClientAuthority(t, "clients")
	cfg := writeAuthorities(t, nil, authority)
	cfg.Required = true
	f := certified(t, cfg, Config{})
	for want, certificates := range map[string][]tls.Certificate{
		"connection requires a valid client certificate": nil,
		"not now": {*authority.client("app", nil)},
	} {
		p := afterSSLRequest(f.dial(t))
		p.Conn = &fragments{Conn: p.Conn}
		config := libpq(alpn)
		config.Certificates = certificates
		inside := p.startTLS(config)
		inside.send(startup(3, 0, parameters))
		if r := inside.refusal(); r.Message != want {
			t.Errorf("with %d certificates: %q, want %q", len(certificates), r.Message, want)
		}
	}
}

// Envoy CVE-2026-47778: a certificate's name does not end where a zero byte stands in it.
func TestClientCertificateZeroByte(t *testing.T) {
	authority := newClientAuthority(t, "clients")
	cfg := writeAuthorities(t, nil, authority)
	cfg.Map = []ClientRule{{SameUser: true}, {DNSName: "app.example.com", Users: []string{"app"}}}
	f := certified(t, cfg, Config{})
	for _, cert := range []*tls.Certificate{
		authority.client("app\x00.example.net", nil),
		authority.client("x", func(c *x509.Certificate) { c.DNSNames = []string{"app.example.com\x00.example.net"} }),
	} {
		if code, message := f.login(t, 0, cert, "app"); code != "28000" {
			t.Errorf("%q %q may log in: %q", cert.Leaf.Subject.CommonName, cert.Leaf.DNSNames, message)
		}
	}
}
