package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admin"
)

// startTLS serves the admin listener as it is on a network address, though on loopback. The lines go into the admin block.
func (p *adminProgram) startTLS(t *testing.T, lines string) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	p.write(t, "pgreplicaproxy.hcl", string(text)+fmt.Sprintf("admin {\n  address = \":%s\"\n%s\n}\n", port, lines))
	t.Setenv("TEST_UNSET_VARIABLE", "set for the program")
	cfg, diags := loadConfig(p.file)
	if cfg == nil {
		t.Fatal(diags.list)
	}
	front, err := openCertificates(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	config, err := adminTLS(cfg.Admin, front)
	if err != nil || config == nil {
		t.Fatalf("TLS: %v, %v", config, err)
	}
	p.config.Local = cfg.Admin.Listen.local()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- admin.Serve(ctx, tls.NewListener(ln, config), admin.Handler(p.config), nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p.write(t, "admin.token", adminTestToken)
	return "https://" + ln.Addr().String()
}

// On a network address the commands find the listener by its certificate, whichever it has, and bring the token.
func TestAdminTLS(t *testing.T) {
	for name, lines := range map[string]string{
		"local CA": `token = "` + adminTestToken + `"`,
		"files":    "token = \"" + adminTestToken + "\"\ncert_file = \"admin.crt\"\nkey_file = \"admin.key\"",
	} {
		t.Run(name, func(t *testing.T) {
			p := newAdminProgram(t)
			writeCertificate(t, p.dir, "admin", time.Hour)
			p.startTLS(t, lines)
			if got := p.run("status"); !strings.Contains(got, "db2 is primary") || !strings.Contains(got, "exit code 0") {
				t.Errorf("status: %s", got)
			}
			if got := p.run("drain", "db1"); !strings.Contains(got, "took db1 out of service") {
				t.Errorf("drain: %s", got)
			}
			// Another listener in its place gets neither the token nor the question.
			writeCertificate(t, p.dir, "admin", 2*time.Hour)
			if err := os.RemoveAll(filepath.Join(p.dir, "ca")); err != nil {
				t.Fatal(err)
			}
			p.actions = nil
			if got := p.run("drain", "db1"); !strings.Contains(got, "exit code 1") || len(p.actions) > 0 {
				t.Errorf("with another certificate: %s, did %q", got, p.actions)
			}
		})
	}
}

// Who may do what from elsewhere.
func TestAdminClientCertificates(t *testing.T) {
	p := newAdminProgram(t)
	writeCertificate(t, p.dir, "friend", time.Hour)
	writeCertificate(t, p.dir, "stranger", time.Hour)
	address := p.startTLS(t, `client_ca_file = "friend.crt"`)
	ask := func(method, path, certificate string) int {
		t.Helper()
		config := &tls.Config{InsecureSkipVerify: true} // who the listener is, is TestAdminTLS's question
		if certificate != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(p.dir, certificate+".crt"), filepath.Join(p.dir, certificate+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(t.Context(), method, address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil { // an alert
			return 0
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	for _, tc := range []struct {
		method, path, certificate string
		want                      int
	}{
		{"GET", "/status", "friend", 200},
		{"GET", "/", "friend", 200},
		{"GET", "/status", "", 401},
		{"GET", "/status", "stranger", 0},
		{"GET", "/livez", "", 200},
		{"POST", "/reload", "friend", 401},
	} {
		if got := ask(tc.method, tc.path, tc.certificate); got != tc.want {
			t.Errorf("%s %s with certificate %q: got %d, want %d", tc.method, tc.path, tc.certificate, got, tc.want)
		}
	}
	if len(p.actions) > 0 {
		t.Errorf("did %q", p.actions)
	}
}
