package tlsfront

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"testing"
)

// loadPairs writes and loads one ECDSA pair for each list of names.
func loadPairs(t *testing.T, templates ...x509.Certificate) *CertificateFiles {
	t.Helper()
	dir := t.TempDir()
	var pairs []CertificateFile
	for i, template := range templates {
		certPEM, keyPEM := pemPair(t, "ecdsa", template)
		pairs = append(pairs, writePair(t, dir, string(rune('a'+i)), certPEM, keyPEM))
	}
	files, err := LoadCertificateFiles(pairs)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestChoiceByServerName(t *testing.T) {
	files := loadPairs(
		t,
		names("default.example.com"),
		names("*.example.com", "wild.example.org"),
		names("db.example.com", "db.example.org", "10.0.0.1", "2001:db8::1"),
		names("DB.Example.NET."),
		x509.Certificate{Subject: pkix.Name{CommonName: "old.example.com"}},
		x509.Certificate{Subject: pkix.Name{CommonName: "ignored.example.edu"}, DNSNames: []string{"san.example.edu"}},
		names("f*.example.info"),
	)
	for _, test := range []struct {
		serverName, want string // the common name
	}{
		{"", "default.example.com"},
		{"unknown.example.org", "default.example.com"},
		{"default.example.com", "default.example.com"},
		{"db.example.com", "db.example.com"}, // exact before wildcard
		{"db.example.org", "db.example.com"},
		{"DB.EXAMPLE.ORG", "db.example.com"},
		{"db.example.org.", "db.example.com"},
		{"10.0.0.1", "db.example.com"},
		{"10.0.0.2", "default.example.com"},
		{"2001:db8::1", "db.example.com"},
		{"db2.example.com", "*.example.com"},
		{"DB2.Example.Com.", "*.example.com"},
		{"wild.example.org", "*.example.com"},
		{"a.b.example.com", "default.example.com"}, // a wildcard stands for one label
		{"example.com", "default.example.com"},
		{"db.example.net", "DB.Example.NET."},
		{"old.example.com", "old.example.com"},
		{"ignored.example.edu", "default.example.com"},
		{"foo.example.info", "default.example.com"}, // and for a whole one
		{".", "default.example.com"},
	} {
		cert, err := files.GetCertificate(&tls.ClientHelloInfo{
			ServerName:        test.serverName,
			SupportedVersions: []uint16{tls.VersionTLS13},
			SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
			SupportedCurves:   []tls.CurveID{tls.X25519},
		})
		if err != nil {
			t.Errorf("%q: %v", test.serverName, err)
		} else if got := cert.Leaf.Subject.CommonName; got != test.want {
			t.Errorf("%q: got %q, want %q", test.serverName, got, test.want)
		}
	}
}

func TestChoiceReachesTheClient(t *testing.T) {
	server := ServerConfig(loadPairs(t, names("a.example.com"), names("b.example.com")).GetCertificate, 0)
	for _, name := range []string{"a.example.com", "b.example.com"} {
		s := shake(t, server, careless(name))
		s.presented(t)
		if err := s.client.PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

func TestChoiceByAlgorithm(t *testing.T) {
	dir := t.TempDir()
	var pairs []CertificateFile
	for _, kind := range []string{"ecdsa", "rsa"} {
		certPEM, keyPEM := pemPair(t, kind, names("db.example.com", "*.example.org"))
		pairs = append(pairs, writePair(t, dir, kind, certPEM, keyPEM))
	}
	files, err := LoadCertificateFiles(pairs)
	if err != nil {
		t.Fatal(err)
	}
	server := ServerConfig(files.GetCertificate, 0)

	onlyRSA := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	for _, serverName := range []string{"db.example.com", "x.example.org", "unknown.example.net", ""} {
		for _, test := range []struct {
			maxVersion uint16
			suites     []uint16
			want       x509.PublicKeyAlgorithm
		}{
			{tls.VersionTLS13, nil, x509.ECDSA}, // the first of the file
			{tls.VersionTLS12, nil, x509.ECDSA},
			{tls.VersionTLS12, onlyRSA, x509.RSA},
		} {
			client := careless(serverName)
			client.MaxVersion, client.CipherSuites = test.maxVersion, test.suites
			s := shake(t, server, client)
			s.presented(t)
			if got := s.client.PeerCertificates[0].PublicKeyAlgorithm; got != test.want {
				t.Errorf("%q, %s, suites %v: got %v, want %v", serverName, tls.VersionName(test.maxVersion), test.suites, got, test.want)
			}
		}
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	certPEM, keyPEM := pemPair(t, "ecdsa", names("a.example.com"))
	a := writePair(t, dir, "a", certPEM, keyPEM)
	b := writePair(t, dir, "b", certPEM, keyPEM)
	files, err := LoadCertificateFiles([]CertificateFile{a, b})
	if err != nil {
		t.Fatal(err)
	}
	server := ServerConfig(files.GetCertificate, 0)
	first := shake(t, server, careless("")).presented(t)

	// The first pair is renewed well, but the key of the second is still to come: nothing changes.
	certPEM, keyPEM = pemPair(t, "ecdsa", names("a.example.com"))
	writePair(t, dir, "a", certPEM, keyPEM)
	writeFile(t, b.CertFile, certPEM, 0o644)
	if err := files.Reload(); err == nil {
		t.Error("a pair that does not match was accepted")
	}
	if !bytes.Equal(shake(t, server, careless("")).presented(t), first) {
		t.Error("a failed reload changed what is served")
	}

	writePair(t, dir, "b", certPEM, keyPEM)
	if err := files.Reload(); err != nil {
		t.Fatal(err)
	}
	second := shake(t, server, careless("")).presented(t)
	if bytes.Equal(second, first) {
		t.Error("a reload did not reach the next handshake")
	}
	if err := os.Remove(a.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := files.Reload(); err == nil {
		t.Error("a missing key was accepted")
	}
	if !bytes.Equal(shake(t, server, careless("")).presented(t), second) {
		t.Error("a failed reload changed what is served")
	}
}

// Kubernetes mounts a secret as links through ..data, and renews it by exchanging that one link.
func TestReloadThroughExchangedLink(t *testing.T) {
	dir := t.TempDir()
	publish := func(version string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM := pemPair(t, "ecdsa", names(version))
		writePair(t, filepath.Join(dir, version), "tls", certPEM, keyPEM)
		next := filepath.Join(dir, "..next")
		if err := os.Symlink(version, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("v1")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := LoadCertificateFiles([]CertificateFile{{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}})
	if err != nil {
		t.Fatal(err)
	}
	server := ServerConfig(files.GetCertificate, 0)
	for _, version := range []string{"v1", "v2"} {
		if version != "v1" {
			publish(version)
			if err := files.Reload(); err != nil {
				t.Fatal(err)
			}
		}
		s := shake(t, server, careless(""))
		s.presented(t)
		if got := s.client.PeerCertificates[0].Subject.CommonName; got != version {
			t.Errorf("got %q, want %q", got, version)
		}
	}
}
