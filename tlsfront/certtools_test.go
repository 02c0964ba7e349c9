package tlsfront

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// newKey makes a key of one of the kinds "ecdsa", "rsa", "ed25519".
func newKey(t *testing.T, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("no such kind of key: %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pemPair makes a self-signed certificate, valid for a year from yesterday unless the template says otherwise.
func pemPair(t *testing.T, kind string, template x509.Certificate) (certPEM, keyPEM []byte) {
	t.Helper()
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().AddDate(0, 0, -1)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = template.NotBefore.AddDate(1, 0, 0)
	}
	key := newKey(t, kind)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE", der), encodePEM("PRIVATE KEY", keyDER)
}

// names makes a template for a certificate that is valid for names, the first of which is its common name too.
func names(names ...string) x509.Certificate {
	template := x509.Certificate{Subject: pkix.Name{CommonName: names[0]}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template
}

// writePair writes dir/base.crt and dir/base.key, over what is there.
func writePair(t *testing.T, dir, base string, certPEM, keyPEM []byte) CertificateFile {
	t.Helper()
	pair := CertificateFile{filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key")}
	writeFile(t, pair.CertFile, certPEM, 0o644)
	writeFile(t, pair.KeyFile, keyPEM, 0o600)
	return pair
}

func writeFile(t *testing.T, name string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

// shaken is what came of one handshake, as both sides saw it.
type shaken struct {
	client, server       tls.ConnectionState
	clientErr, serverErr error
	leaf                 *tls.Certificate // recorded by the server
}

// presented is the DER of the leaf that the client was shown.
func (s shaken) presented(t *testing.T) []byte {
	t.Helper()
	if s.clientErr != nil || s.serverErr != nil {
		t.Fatalf("handshake failed: client %v, server %v", s.clientErr, s.serverErr)
	}
	return s.client.PeerCertificates[0].Raw
}

// shake does one handshake over loopback, and lets the server send one byte, so that the client reads whatever else the
// server has to say after it.
func shake(t *testing.T, server, client *tls.Config) shaken {
	t.Helper()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	var s shaken
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			s.serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		var rec presentedLeaf
		if s.serverErr = conn.HandshakeContext(withLeaf(ctx, &rec)); s.serverErr == nil {
			_, s.serverErr = conn.Write([]byte{'!'})
		}
		s.server, s.leaf = conn.ConnectionState(), rec.cert
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	if s.clientErr = conn.HandshakeContext(ctx); s.clientErr == nil {
		_, s.clientErr = io.ReadFull(conn, make([]byte, 1))
	}
	s.client = conn.ConnectionState()
	conn.Close()
	<-done
	return s
}

// trusting is a client that trusts one PEM root and expects name.
func trusting(t *testing.T, rootPEM []byte, name string) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(rootPEM) {
		t.Fatalf("not a PEM certificate: %s", rootPEM)
	}
	return &tls.Config{RootCAs: roots, ServerName: name}
}

// careless is a client that takes any certificate, as libpq does with sslmode=require.
func careless(name string) *tls.Config {
	return &tls.Config{ServerName: name, InsecureSkipVerify: true}
}
