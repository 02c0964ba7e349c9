package tlsfront

import (
	"bytes"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
)

// fileConfig is the configuration for one fresh certificate.
func fileConfig(t *testing.T, minVersion uint16) *tls.Config {
	t.Helper()
	certPEM, keyPEM := pemPair(t, "ecdsa", names("db.example.com"))
	files, err := LoadCertificateFiles([]CertificateFile{writePair(t, t.TempDir(), "db", certPEM, keyPEM)})
	if err != nil {
		t.Fatal(err)
	}
	return ServerConfig(files.GetCertificate, minVersion)
}

func TestServerConfigALPN(t *testing.T) {
	server := fileConfig(t, 0)
	for _, test := range []struct {
		offered []string
		want    string
		refused bool
	}{
		{nil, "", false}, // libpq before 17
		{[]string{"postgresql"}, "postgresql", false},
		{[]string{"h2", "postgresql"}, "postgresql", false},
		{[]string{"h2"}, "", true},
		{[]string{"http/1.1"}, "", true},
		{[]string{"acme-tls/1"}, "", true},
	} {
		client := careless("db.example.com")
		client.NextProtos = test.offered
		s := shake(t, server, client)
		alerted := s.clientErr != nil && strings.Contains(s.clientErr.Error(), "tls: no application protocol")
		if got := s.serverErr != nil && alerted; got != test.refused {
			t.Errorf("offered %q: refused %v, want %v (client %v, server %v)", test.offered, got, test.refused, s.clientErr, s.serverErr)
		}
		if got := s.client.NegotiatedProtocol; got != test.want {
			t.Errorf("offered %q: negotiated %q, want %q", test.offered, got, test.want)
		}
	}
}

func TestServerConfigVersions(t *testing.T) {
	for _, test := range []struct {
		minimum, client, want uint16 // want 0: refused
	}{
		{0, tls.VersionTLS10, 0},
		{0, tls.VersionTLS11, 0},
		{tls.VersionTLS10, tls.VersionTLS11, 0},
		{0, tls.VersionTLS12, tls.VersionTLS12},
		{0, tls.VersionTLS13, tls.VersionTLS13},
		{tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12},
		{tls.VersionTLS13, tls.VersionTLS12, 0},
		{tls.VersionTLS13, tls.VersionTLS13, tls.VersionTLS13},
	} {
		client := careless("db.example.com")
		client.MinVersion, client.MaxVersion = tls.VersionTLS10, test.client
		s := shake(t, fileConfig(t, test.minimum), client)
		var got uint16
		if s.clientErr == nil && s.serverErr == nil {
			got = s.server.Version
		}
		if got != test.want {
			t.Errorf("minimum %#x, client %#x: got %#x, want %#x (%v)", test.minimum, test.client, got, test.want, s.serverErr)
		}
	}
}

func TestServerConfigAlgorithms(t *testing.T) {
	server := fileConfig(t, 0)
	if got, want := shake(t, server, careless("")).server.CurveID, tls.X25519MLKEM768; got != want {
		t.Errorf("key exchange %v, want %v", got, want)
	}
	old := careless("") // OpenSSL 1.0.2's best
	old.MaxVersion, old.CurvePreferences = tls.VersionTLS12, []tls.CurveID{tls.CurveP256}
	if got, want := shake(t, server, old).server.CurveID, tls.CurveP256; got != want {
		t.Errorf("key exchange of an old client %v, want %v", got, want)
	}
	cbc := careless("")
	cbc.MaxVersion, cbc.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	if s := shake(t, server, cbc); s.serverErr == nil {
		t.Errorf("a client with nothing but CBC was served with %s", tls.CipherSuiteName(s.server.CipherSuite))
	}
}

func TestServerConfigNeverResumes(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		server := fileConfig(t, 0)
		for _, ticketsOff := range []bool{false, true} { // the first proves that this client would resume
			server := server.Clone()
			if !ticketsOff {
				server.SessionTicketsDisabled = false
			}
			client := careless("db.example.com")
			client.MaxVersion, client.ClientSessionCache = version, tls.NewLRUClientSessionCache(8)
			shake(t, server, client).presented(t)
			second := shake(t, server, client)
			second.presented(t)
			if got, want := second.client.DidResume, !ticketsOff; got != want {
				t.Errorf("%s, tickets off %v: second handshake resumed %v, want %v", tls.VersionName(version), ticketsOff, got, want)
			}
		}
	}
}

// The recorded leaf is the one on the wire, although the files have been reloaded before the handshake ended.
func TestRecordedLeafIsThePresentedOne(t *testing.T) {
	dir := t.TempDir()
	certPEM, keyPEM := pemPair(t, "ecdsa", names("db.example.com"))
	files, err := LoadCertificateFiles([]CertificateFile{writePair(t, dir, "db", certPEM, keyPEM)})
	if err != nil {
		t.Fatal(err)
	}
	reloadAfterwards := func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := files.GetCertificate(hello)
		certPEM, keyPEM := pemPair(t, "ecdsa", names("db.example.com"))
		writePair(t, dir, "db", certPEM, keyPEM)
		return cert, errors.Join(err, files.Reload())
	}
	server := ServerConfig(reloadAfterwards, 0)
	var before []byte
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client := careless("db.example.com")
		client.MaxVersion = version
		s := shake(t, server, client)
		presented := s.presented(t)
		if !bytes.Equal(s.leaf.Leaf.Raw, presented) {
			t.Errorf("%s: recorded leaf is not the presented one", tls.VersionName(version))
		}
		if bytes.Equal(presented, before) {
			t.Errorf("%s: the reload changed nothing, so this test proves nothing", tls.VersionName(version))
		}
		before = presented
	}
}

func TestNoCertificateRecordsNoLeaf(t *testing.T) {
	failing := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none yet") }
	s := shake(t, ServerConfig(failing, 0), careless(""))
	if s.serverErr == nil || s.leaf != nil {
		t.Errorf("got error %v and leaf %v, want an error and no leaf", s.serverErr, s.leaf)
	}
}
