package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

func TestDefaultStateDir(t *testing.T) {
	for _, test := range []struct {
		name string
		euid int
		env  map[string]string
		want string
	}{
		{"systemd", 0, map[string]string{"STATE_DIRECTORY": "/var/lib/x"}, "/var/lib/x"},
		{"systemd with several", 1000, map[string]string{"STATE_DIRECTORY": "/var/lib/x:/var/lib/y", "HOME": "/h"}, "/var/lib/x"},
		{"root", 0, map[string]string{"XDG_STATE_HOME": "/s", "HOME": "/root"}, "/var/lib/pgreplicaproxy"},
		{"XDG", 1000, map[string]string{"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/pgreplicaproxy"},
		{"relative XDG", 1000, map[string]string{"XDG_STATE_HOME": "s", "HOME": "/h"}, "/h/.local/state/pgreplicaproxy"},
		{"home", 1000, map[string]string{"HOME": "/h"}, "/h/.local/state/pgreplicaproxy"},
		{"nothing", 1000, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := defaultStateDir(test.euid, func(name string) string { return test.env[name] })
			if got != test.want || (err != nil) != (test.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestListenersOverlap(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{":7432", ":7432", true},
		{":7432", ":7433", false},
		{":7432", "127.0.0.1:7432", true},
		{":7432", "[::1]:7432", true},
		{":7432", "db.example.com:7432", true},
		{"[::]:7432", "0.0.0.0:7432", true},
		{"0.0.0.0:7432", "192.0.2.1:7432", true},
		{"0.0.0.0:7432", "[::1]:7432", false},
		{"127.0.0.1:7432", "127.0.0.2:7432", false},
		{"[::ffff:127.0.0.1]:7432", "127.0.0.1:7432", true},
		{"DB.example.com:7432", "db.example.com:7432", true},
		{"/run/a", "/run/a", true},
		{"/run/a", "/run/b", false},
		{"/run/a", ":7432", false},
	} {
		a, errA := parseListenAddress(test.a)
		b, errB := parseListenAddress(test.b)
		if errA != nil || errB != nil {
			t.Errorf("%s, %s: %v, %v", test.a, test.b, errA, errB)
			continue
		}
		if got := a.overlaps(b); got != test.want {
			t.Errorf("%s overlaps %s: got %v, want %v", test.a, test.b, got, test.want)
		}
		if got := b.overlaps(a); got != test.want {
			t.Errorf("%s overlaps %s: got %v, want %v", test.b, test.a, got, test.want)
		}
	}
}

// TestMaskSecrets looks at lines as operators write them. What a diagnostic points at must not move.
func TestMaskSecrets(t *testing.T) {
	for _, test := range []struct{ src, want string }{
		{`password = "hunter2"`, `password = "*******"`},
		{`  monitor { password = "hunter2" }`, `  monitor { password = "*******" }`},
		{`  password = "hunter2, a \"secret\" = }"`, `  password = "*************************"`},
		{`password = hunter2`, `password = *******`},
		{`"password" : "hunter2",`, `"password" : "*********`},
		{`pasword="hunter2"`, `pasword="*******"`},
		{`password "hunter2"`, `password "*******"`},
		{`password = "hunter2`, `password = "*******`},
		{`password = env("NAME")`, `password = env("NAME")`},
		{`password = file("hunter.txt") }`, `password = file("hunter.txt") }`},
		{`password = env("NAME", "hunter2")`, `password = env("NAME", "*******")`},
		{"password = <<EOT\n  hunter2\nEOT\n", "password = *****\n  *******\n***\n"},
		{"password = \"hunter2\"\r\nuser = \"x\"\r\n", "password = \"*******\"\r\nuser = \"x\"\r\n"},
		{`password = "hünter2"`, `password = "********"`},
		{`authentication = "scram_passthrough"`, `authentication = "scram_passthrough"`},
		{`user = "x"`, `user = "x"`},
	} {
		got := string(maskSecrets([]byte(test.src)))
		if len(got) != len(test.src) {
			t.Errorf("%q: got %q, want the same length", test.src, got)
		}
		if got != test.want {
			t.Errorf("%q: got %q, want %q", test.src, got, test.want)
		}
	}
}

// TestMaskedDetail writes a diagnostic of HCL itself that repeats the text it points at.
func TestMaskedDetail(t *testing.T) {
	_, diags := parseHCL("test.hcl", []byte("cluster \"main\" {\n  monitor {\n    password = \"50%{hunter2\"\n  }\n}\n"))
	var out bytes.Buffer
	if err := diags.write(&out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Contains(got, "hunter2") || !strings.Contains(got, "template control keyword") {
		t.Errorf("got %s", got)
	}
}

// writeCertificate writes a self-signed pair, valid for a time, and returns the names of its files.
func writeCertificate(t *testing.T, dir, name string, life time.Duration) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(life),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: cert}, name + ".key": {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return name + ".crt", name + ".key"
}

func TestCertificateBlocks(t *testing.T) {
	setConfigEnvironment(t)
	dir := t.TempDir()
	writeCertificate(t, dir, "a.example.com", 365*24*time.Hour)
	writeCertificate(t, dir, "old.example.com", -time.Hour)
	const cluster = `cluster "main" {
  authentication = "relay"
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend_tls { root_file = "a.example.com.crt" }
  backend "db1" { address = "10.0.0.11" }
}
`
	pair := func(cert, key string) string {
		return "tls {\n certificate {\n  cert_file = \"" + cert + "\"\n  key_file = \"" + key + "\"\n }\n}\n"
	}
	cfg := loadText(t, dir, cluster+pair("a.example.com.crt", "a.example.com.key"))
	want := []tlsfront.CertificateFile{{
		CertFile: filepath.Join(dir, "a.example.com.crt"), KeyFile: filepath.Join(dir, "a.example.com.key"),
	}}
	if !reflect.DeepEqual(cfg.Certificates, want) {
		t.Errorf("got %v, want %v", cfg.Certificates, want)
	}
	target := cfg.Clusters[0].Monitor.Targets[0]
	if target.TLS != backends.TLSVerifyFull || target.RootCAs == nil {
		t.Errorf("got TLS %v with roots %v, want the roots of the file", target.TLS, target.RootCAs)
	}
	for _, test := range []struct{ cert, key, want string }{
		{"a.example.com.crt", "old.example.com.key", "Error: Certificate cannot be used"},
		{"a.example.com.key", "a.example.com.key", "Error: Certificate cannot be used"},
		{"old.example.com.crt", "old.example.com.key", "Warning: Doubtful certificate"},
	} {
		path := filepath.Join(dir, "test.hcl")
		if err := os.WriteFile(path, []byte(cluster+pair(test.cert, test.key)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := outcome("check", "--config", path); !strings.Contains(got, test.want) {
			t.Errorf("%s with %s: got %s, want %q", test.cert, test.key, got, test.want)
		}
	}
}

func TestFileFunction(t *testing.T) {
	setConfigEnvironment(t)
	dir := t.TempDir()
	for content, want := range map[string]string{
		"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", "secret\n\n": "secret\n", " secret \n": " secret ",
	} {
		if err := os.WriteFile(filepath.Join(dir, "secret.txt"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := loadText(t, dir, `cluster "main" {
  monitor { password = file("secret.txt") }
  backend "db1" { address = "10.0.0.11" }
}`)
		if got := cfg.Clusters[0].Monitor.Credentials.Password; got != want {
			t.Errorf("%q: got %q, want %q", content, got, want)
		}
	}
}
