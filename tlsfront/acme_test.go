package tlsfront

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/acmetest"
	"github.com/replicon/pgreplicaproxy/internal/admission"
)

// Every challenge, every way to answer it: each name gets a certificate of its own, by its name.
func TestACMEChallenges(t *testing.T) {
	for _, test := range []struct {
		name        string
		challenge   Challenge
		sameAddress bool
		domains     []string
		dns         func(*testing.T, *acmetest.Server) *DNSSolver
	}{
		{"tls-alpn-01 on the listener of clients", ChallengeTLSALPN, true, []string{"db.test", "other.test"}, nil},
		{"tls-alpn-01 on an address of its own", ChallengeTLSALPN, false, []string{"db.test"}, nil},
		{"tls-alpn-01 for an address", ChallengeTLSALPN, true, []string{"db.test", "127.0.0.1"}, nil},
		{"http-01", ChallengeHTTP, false, []string{"db.test", "127.0.0.1"}, nil},
		{"dns-01 by dynamic updates", ChallengeDNS, false, []string{"db.test", "*.wild.test"}, byUpdate},
		{"dns-01 by a program", ChallengeDNS, false, []string{"db.test"}, byProgram},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newACMERig(t, acmetest.Config{})
			cfg := r.config(test.challenge, test.domains...)
			if test.dns != nil {
				cfg.DNS = test.dns(t, r.server)
			}
			f := r.serve(cfg, test.sameAddress)
			f.waitReady()
			for _, domain := range test.domains {
				f.wantValid(r.roots, strings.Replace(domain, "*", "any", 1))
			}
			for _, name := range []string{"", "unknown.test"} {
				if got := f.presented(name).DNSNames; slices.Contains(test.domains, "127.0.0.1") == (len(got) > 0) {
					t.Errorf("client that asks for %q gets the certificate for %v", name, got)
				}
			}
			if got := r.server.DNS.Texts("_acme-challenge.db.test"); len(got) > 0 {
				t.Errorf("left behind in the DNS: %v", got)
			}
			f.stop()
			want := slices.Repeat([]string{"certificate obtained"}, len(test.domains))
			if got := r.logs.messages(t); !slices.Equal(got, want) {
				t.Errorf("logged %q, want %q", got, want)
			}
		})
	}
}

func byUpdate(_ *testing.T, s *acmetest.Server) *DNSSolver {
	return &DNSSolver{
		Server: s.DNS.Address, Resolvers: []string{s.DNS.Address},
		Key: &TSIGKey{Name: acmetest.TSIGName, Algorithm: acmetest.TSIGAlgorithm, Secret: acmetest.TSIGSecret},
	}
}

// byProgram answers by a shell script that tells a web server what it was told.
func byProgram(t *testing.T, s *acmetest.Server) *DNSSolver {
	t.Helper()
	ln := loopback(t)
	server := http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s.DNS.Set(r.FormValue("fqdn"), r.FormValue("value"), r.FormValue("action") == "present")
	})}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	script := filepath.Join(t.TempDir(), "hook")
	text := "#!/bin/bash\nset -eu\nexec 3<>\"/dev/tcp/${1/://}\"\n" +
		`printf 'GET /?action=%s&fqdn=%s&value=%s HTTP/1.0\r\n\r\n' "$ACME_ACTION" "$ACME_FQDN" "$ACME_VALUE" >&3` + "\ncat <&3\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return &DNSSolver{Exec: []string{script, ln.Addr().String()}, Resolvers: []string{s.DNS.Address}}
}

// What a solver of dns-01 cannot do is told with the reason, and neither secret nor environment.
func TestDNSSolverFails(t *testing.T) {
	r := newACMERig(t, acmetest.Config{})
	wrongKey := byUpdate(t, r.server)
	wrongKey.Key.Secret = "d3Jvbmc="
	unsigned := byUpdate(t, r.server)
	unsigned.Key = nil
	for _, test := range []struct {
		solver *DNSSolver
		want   string
	}{
		{wrongKey, "dynamic update"},
		{unsigned, "refused with NOTAUTH"},
		{&DNSSolver{Exec: []string{"/nonexistent/program"}}, "no such file"},
		{&DNSSolver{Exec: []string{"/bin/sh", "-c", "echo not today >&2; exit 3"}}, "exit status 3: not today"},
	} {
		err := dnsProvider{test.solver}.update(context.Background(), "present", "test.", "a.test.", "value")
		if len(test.solver.Exec) > 0 {
			err = dnsProvider{test.solver}.run(context.Background(), "present", "a.test.", "value")
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "d3Jvbmc") {
			t.Errorf("got %v, want %q in it", err, test.want)
		}
	}
}

// An account bound to another one, a profile, and a server that rejects one good nonce in five. (With one in two the ten tries
// that the client has for each request are not enough once in some hundred runs, and its next attempt is a minute away.)
func TestACMEAccount(t *testing.T) {
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	r := newACMERig(t, acmetest.Config{BadNonces: 20, ShortLived: true, EAB: map[string]string{"kid-1": key}})
	cfg := r.config(ChallengeTLSALPN, "db.test")
	cfg.EAB, cfg.Profile, cfg.Email = &EAB{"kid-1", key}, "shortlived", "ops@db.test"
	f := r.serve(cfg, true)
	f.waitReady()
	f.wantValid(r.roots, "db.test")
	if leaf := f.presented("db.test"); leaf.NotAfter.Sub(leaf.NotBefore) > 46*24*time.Hour {
		t.Errorf("valid from %v to %v, want the profile's 45 days", leaf.NotBefore, leaf.NotAfter)
	}
	if text := fmt.Sprintf("%v %+v %#v", *cfg.EAB, cfg.EAB, cfg.EAB) + r.logs.String(); strings.Contains(text, key) {
		t.Errorf("shows the key: %s", text)
	}
}

// The server asks for an early renewal (RFC 9773): the next handshake gets the new certificate, sessions keep theirs.
func TestACMERenewalInfo(t *testing.T) {
	r := newACMERig(t, acmetest.Config{})
	cfg := r.config(ChallengeTLSALPN, "db.test")
	cfg.RenewCheckInterval = 500 * time.Millisecond
	f := r.serve(cfg, true)
	f.waitReady()
	first := f.presented("db.test")
	r.server.RenewNow(first)
	wait(t, "the certificate is renewed", func() bool { return !bytes.Equal(f.presented("db.test").Raw, first.Raw) })
	f.wantValid(r.roots, "db.test")
	if got := r.logs.messages(t); !slices.Equal(got, []string{"certificate obtained", "certificate renewed"}) {
		t.Errorf("logged %q", got)
	}
	if got := f.Certificates()[0]; got.LastError != "" || got.Renewed.IsZero() || got.ExpiresSoon(time.Now()) || !slices.Equal(got.Names, []string{"db.test"}) {
		t.Errorf("status %+v", got)
	}
}

// The ACME server is down at the very first start: clients are shown a stand-in, and what is missing is told. It comes
// back: an attempt, which would be made in a minute, is made at once when asked for.
func TestACMEServerDownAtFirst(t *testing.T) {
	r := newACMERig(t, acmetest.Config{})
	r.server.Down()
	f := r.serve(r.config(ChallengeTLSALPN, "db.test"), true)
	if got := f.presented("db.test"); got.Issuer.CommonName == "" || !slices.Contains(got.DNSNames, "db.test") {
		t.Errorf("stand-in by %v for %v", got.Issuer, got.DNSNames)
	}
	wait(t, "the first attempt has failed", func() bool { return f.Certificates()[0].LastError != "" })
	status := f.Certificates()[0]
	if f.Ready() || status.Obtained() || !strings.Contains(status.LastError, "connection refused") {
		t.Errorf("ready %v, status %+v", f.Ready(), status)
	}
	r.server.Up()
	f.Retry()
	f.waitReady()
	f.wantValid(r.roots, "db.test")
	if got := f.Certificates()[0]; got.LastError != "" || !got.Obtained() {
		t.Errorf("status %+v", got)
	}
	want := []string{"certificate not obtained, clients are shown a stand-in", "certificate obtained"}
	if got := r.logs.messages(t); !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

// A start while the ACME server is down serves what is stored, in a storage that only its user can read.
func TestACMEServerDownLater(t *testing.T) {
	r := newACMERig(t, acmetest.Config{})
	cfg := r.config(ChallengeTLSALPN, "db.test")
	f := r.serve(cfg, true)
	f.waitReady()
	first := f.presented("db.test")
	f.stop()
	r.server.Down()
	f = r.serve(cfg, true)
	f.waitReady()
	if !bytes.Equal(f.presented("db.test").Raw, first.Raw) {
		t.Error("another certificate than the stored one")
	}
	err := filepath.WalkDir(r.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 && filepath.Base(filepath.Dir(path)) != "locks" {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A renewal that fails is told, and the old certificate stays.
func TestACMERenewalFails(t *testing.T) {
	r := newACMERig(t, acmetest.Config{}) // with a name of its own: certmagic remembers failures, in this process, by name
	cfg := r.config(ChallengeTLSALPN, "failing.test")
	cfg.RenewCheckInterval = 500 * time.Millisecond
	f := r.serve(cfg, true)
	f.waitReady()
	first := f.presented("failing.test")
	hold := r.server.Hold(acmetest.NewOrder)
	r.server.RenewNow(first)
	<-hold.Reached
	r.server.Down()
	wait(t, "the renewal has failed", func() bool { return f.Certificates()[0].LastError != "" })
	if status := f.Certificates()[0]; !status.Obtained() || !f.Ready() || status.LastErrorAt.IsZero() {
		t.Errorf("ready %v, status %+v", f.Ready(), status)
	}
	if !bytes.Equal(f.presented("failing.test").Raw, first.Raw) {
		t.Error("another certificate than before")
	}
	if got := r.logs.messages(t); !slices.Equal(got, []string{"certificate obtained", "certificate not renewed, the old one stays"}) {
		t.Errorf("logged %q", got)
	}
}

// A challenge is answered for direct TLS that offers acme-tls/1 alone, and for names that are ours; it never becomes a client,
// and is no line in the log at its usual level.
func TestChallengeIsNoClient(t *testing.T) {
	r := newACMERig(t, acmetest.Config{})
	cfg := r.config(ChallengeTLSALPN, "db.test")
	f := r.serve(cfg, true)
	f.waitReady()
	hold := r.server.Hold(acmetest.Challenge)
	r.server.RenewNow(f.presented("db.test"))
	f.stop()
	cfg.RenewCheckInterval = time.Second
	f = r.serve(cfg, true)
	<-hold.Reached // the challenge can be answered now, and nobody has asked for it yet
	shake := func(request bool, name string, protocols ...string) error {
		t.Helper()
		conn, err := net.Dial("tcp", f.address)
		if err != nil {
			t.Fatal(err)
		}
		p := newPeer(t, conn)
		if request {
			p.send(sslRequest)
			p.want("S")
		}
		config := careless(name)
		config.NextProtos = protocols
		client := tls.Client(p.Conn, config)
		if err := client.Handshake(); err != nil {
			return err
		}
		if client.ConnectionState().NegotiatedProtocol == alpnACME {
			(&peer{client, t}).wantSilence()
		}
		return nil
	}
	if err := shake(false, "db.test", alpnACME); err != nil {
		t.Errorf("challenge: %v", err)
	}
	for name, err := range map[string]error{
		"behind an SSLRequest": shake(true, "db.test", alpnACME),
		"another name":         shake(false, "other.test", alpnACME),
		"no name":              shake(false, "", alpnACME),
	} {
		if err == nil {
			t.Errorf("challenge %s answered", name)
		}
	}
	if err := shake(false, "db.test", alpnACME, alpn); err != nil { // a client like any other
		t.Errorf("both protocols: %v", err)
	}
	hold.Release()
	f.stop()
	for _, line := range strings.Split(r.logs.String(), "\n") {
		if strings.Contains(line, "connection refused") && !strings.Contains(line, "no challenge for") && !strings.Contains(line, "application protocol") {
			t.Errorf("logged %s", line)
		}
	}
}

// Keys that others can read are warned of.
func TestACMEWarnings(t *testing.T) {
	r := newACMERig(t, acmetest.Config{Lifetime: 3 * time.Second, NoARI: true})
	f := r.serve(r.config(ChallengeTLSALPN, "db.test"), true)
	f.waitReady()
	keys, err := filepath.Glob(filepath.Join(r.dir, "certificates", "*", "db.test", "db.test.key"))
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	if err := os.Chmod(keys[0], 0o644); err != nil {
		t.Fatal(err)
	}
	wait(t, "the certificate has expired", func() bool { return !f.Ready() })
	got := strings.Join(f.Warnings(), "\n")
	for _, want := range []string{"certificate for db.test expired at", "key " + keys[0] + " can be read by other users"} {
		if !strings.Contains(got, want) {
			t.Errorf("warnings %q, want %q", got, want)
		}
	}
}

// Whoever opens very many connections to an address for challenges is cut short, and those that are there go on.
func TestChallengeConnectionsAreBounded(t *testing.T) {
	for challenge, talk := range map[Challenge][3]string{ // said first and answered, and said in the end
		ChallengeTLSALPN: {sslRequest, "S", "\x16\x03\x01\x00\x05hello"},
		ChallengeHTTP:    {"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "HTTP/1.1 404 Not Found", "GET / HTTP/1.0\r\n\r\n"},
	} {
		r := newACMERig(t, acmetest.Config{})
		r.serve(r.config(challenge, "a.test"), false)
		dial := func() *peer {
			conn, err := net.Dial("tcp", r.address)
			if err != nil {
				t.Fatal(err)
			}
			return newPeer(t, conn)
		}
		first := dial()
		first.send(talk[0])
		first.want(talk[1])
		const many = 300 // more than one network gets, with those that would be told something
		closed := make(chan bool, many)
		for range many {
			p := dial()
			go func() {
				_, err := p.Read(make([]byte, 1))
				closed <- errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
			}()
		}
		if !<-closed {
			t.Errorf("%s: none of them was closed", challenge)
		}
		first.send(talk[2])
		if first.rest() == "" {
			t.Errorf("%s: the first of them has no answer", challenge)
		}
	}
}

// A challenge that waits for the storage keeps no client waiting.
func TestChallengesTakeNoTurn(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0), Gate: admission.New(admission.Limits{Handshakes: 1})}
	waiting, goOn := make(chan struct{}), make(chan struct{})
	config.Challenges = &tls.Config{
		NextProtos: []string{alpnACME},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			close(waiting)
			<-goOn
			return config.TLS.GetCertificate(hello)
		},
	}
	f := startFront(t, loopback(t), config, nil)
	validation := tls.Client(f.dial(t).Conn, libpq(alpnACME))
	validated := make(chan error, 1)
	go func() { validated <- validation.Handshake() }()
	<-waiting
	p := bySSLRequest(f.dial(t))
	p.send(startup(3, 0, parameters))
	if r := p.refusal(); r.Code != "57P03" {
		t.Errorf("answered %s %q, not by the handler", r.Code, r.Message)
	}
	close(goOn)
	if err := <-validated; err != nil {
		t.Error(err)
	}
}

// So many challenges look for their answer at a time; another one waits, and is given up in the end.
func TestChallengesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &ACME{cfg: ACMEConfig{Challenge: ChallengeTLSALPN, Domains: []string{"a.test"}}, looking: make(chan struct{}, 1)}
		a.looking <- struct{}{}
		ln := newPipes()
		f := startFront(t, ln, Config{TLS: fileConfig(t, 0), Challenges: a.Challenges()}, nil)
		began := time.Now()
		p := ln.dial(t)
		config := libpq(alpnACME)
		config.ServerName = "a.test"
		if err := tls.Client(p.Conn, config).Handshake(); err == nil {
			t.Error("handshake succeeded")
		}
		if took := time.Since(began); took != challengePatience {
			t.Errorf("given up after %v, want %v", took, challengePatience)
		}
		f.wantNoClient(t)
	})
}
