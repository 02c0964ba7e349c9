package acmetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

// Config is how the server behaves. The zero value is an obliging one.
type Config struct {
	// Port is where the challenges tls-alpn-01 and http-01 are asked for, on loopback.
	Port int
	// Lifetime of certificates; zero is 90 days. With ShortLived there is the profile "shortlived" too, with half of it; Pebble
	// draws lots where a client names none.
	Lifetime   time.Duration
	ShortLived bool
	// BadNonces is how many percent of good nonces are rejected.
	BadNonces int
	// EAB, if not empty, maps key ids to keys in base64url, one of which every account must be bound to.
	EAB map[string]string
	// NoARI takes renewal information (RFC 9773) out of the directory.
	NoARI bool
}

// Server is a running ACME server.
type Server struct {
	// Directory is its URL, APIRoot the PEM root to trust for talking to it.
	Directory string
	APIRoot   []byte
	// Root is the PEM root of the certificates that it issues.
	Root []byte
	// DNS is the DNS server that it asks.
	DNS *DNS

	t          testing.TB
	address    string
	tls        *tls.Config
	handler    http.Handler
	management http.Handler

	mu     sync.Mutex
	http   *http.Server // nil while down
	counts map[string]int
	holds  map[string]*Hold
}

// Requests that Count counts and Hold holds, by the beginning of their path.
const (
	NewOrder    = "/order-plz"
	Challenge   = "/chalZ/"
	Finalize    = "/finalize-order/"
	RenewalInfo = "/draft-ietf-acme-ari-03/renewalInfo/"
)

// Start runs a server until the test ends. Tests that use it cannot be parallel: Pebble is configured by the environment.
func Start(t testing.TB, cfg Config) *Server {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", fmt.Sprint(cfg.BadNonces))
	if cfg.Lifetime == 0 {
		cfg.Lifetime = 90 * 24 * time.Hour
	}
	seconds := uint64(cfg.Lifetime / time.Second)
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	for id, key := range cfg.EAB {
		if err := store.AddExternalAccountKeyByID(id, key); err != nil {
			t.Fatal(err)
		}
	}
	s := &Server{t: t, DNS: startDNS(t), counts: map[string]int{}, holds: map[string]*Hold{}}
	profiles := map[string]ca.Profile{"default": {ValidityPeriod: seconds}}
	if cfg.ShortLived {
		profiles["shortlived"] = ca.Profile{ValidityPeriod: seconds / 2}
	}
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, profiles)
	validation := va.New(quiet, cfg.Port, cfg.Port, false, s.DNS.Address, store)
	frontend := wfe.New(quiet, store, validation, authority, []string{"acme.test"}, true, len(cfg.EAB) > 0, 1, 1)
	s.handler, s.management = s.watch(frontend.Handler(), cfg.NoARI), frontend.ManagementHandler()
	s.Root = authority.GetRootCert(0).PEM()

	var pair tls.Certificate
	pair, s.APIRoot = selfSigned(t)
	s.tls = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.address = "127.0.0.1:0"
	s.Up()
	s.Directory = "https://" + s.address + wfe.DirectoryPath
	t.Cleanup(s.Down)
	return s
}

// Up brings the server up, at the address it had before.
func (s *Server) Up() {
	s.t.Helper()
	ln, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = ln.Addr().String()
	server := &http.Server{Handler: s.handler, ErrorLog: log.New(io.Discard, "", 0)}
	s.mu.Lock()
	s.http = server
	s.mu.Unlock()
	go func() { _ = server.Serve(tls.NewListener(ln, s.tls)) }()
}

// Down makes the server unreachable.
func (s *Server) Down() {
	s.mu.Lock()
	server := s.http
	s.http = nil
	for _, h := range s.holds {
		h.Release()
	}
	s.mu.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

// Count is how many requests of a kind have come.
func (s *Server) Count(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[kind]
}

// Hold makes the next request of a kind wait. Reached is closed when it has come.
type Hold struct {
	Reached  chan struct{}
	released chan struct{}
	once     sync.Once
}

// Release lets the request go on, and all that follow.
func (h *Hold) Release() { h.once.Do(func() { close(h.released) }) }

// Hold holds requests of a kind from now on.
func (s *Server) Hold(kind string) *Hold {
	h := &Hold{Reached: make(chan struct{}), released: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[kind] = h
	return h
}

// watch counts and holds requests, and makes clients ask for renewal information anew every second.
func (s *Server) watch(next http.Handler, noARI bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, kind := range []string{NewOrder, Challenge, Finalize, RenewalInfo} {
			if strings.HasPrefix(r.URL.Path, kind) {
				s.pass(kind)
			}
		}
		recorder := httptest.NewRecorder()
		next.ServeHTTP(recorder, r)
		body := recorder.Body.Bytes()
		if noARI && r.URL.Path == wfe.DirectoryPath {
			body = bytes.Replace(body, []byte(`"renewalInfo"`), []byte(`"renewalInfoGone"`), 1)
		}
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.Header().Del("Content-Length")
		if strings.HasPrefix(r.URL.Path, RenewalInfo) {
			w.Header().Set("Retry-After", "1")
		}
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(body)
	})
}

// pass counts a request and waits where it is held.
func (s *Server) pass(kind string) {
	s.mu.Lock()
	s.counts[kind]++
	h := s.holds[kind]
	if h != nil && s.counts[kind] > 0 {
		select {
		case <-h.Reached:
		default:
			close(h.Reached)
		}
	}
	s.mu.Unlock()
	if h != nil {
		<-h.released
	}
}

// RenewNow makes the server suggest that a certificate be renewed at once.
func (s *Server) RenewNow(certificate *x509.Certificate) {
	s.t.Helper()
	past := func(age time.Duration) string { return time.Now().Add(-age).UTC().Format(time.RFC3339) }
	body, err := json.Marshal(map[string]string{
		"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})),
		"ARIResponse": fmt.Sprintf(`{"suggestedWindow": {"start": %q, "end": %q}}`, past(2*time.Hour), past(time.Hour)),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodPost, "/set-renewal-info/", bytes.NewReader(body))
	request.Header.Set("User-Agent", "test")
	s.management.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusOK {
		s.t.Fatalf("set renewal info: %d %s", recorder.Code, recorder.Body)
	}
}

// selfSigned makes the certificate of the server's own HTTPS.
func selfSigned(t testing.TB) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
