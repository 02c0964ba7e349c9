package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// issueClient writes NAME.crt and NAME.key for clients, and returns the certificate's serial number.
func (f certificateFiles) issueClient(name string) *big.Int {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority().cert, key.Public(), authority().key)
	if err != nil {
		f.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(name+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	f.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	return serial
}

// revoke writes clients.crl with these serial numbers.
func (f certificateFiles) revoke(serials ...*big.Int) {
	f.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, authority().cert, authority().key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("clients.crl", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// Clients of every libpq have to show a certificate, may log in as whom it is for, and are told why not otherwise. A certificate
// that is revoked while the program runs lets nobody in any more.
func TestClientCertificates(t *testing.T) {
	c := sharedCluster(t, versions[0])
	f := newCertificateFiles(t)
	f.issue("db", "db.test")
	app := f.issueClient("app")
	f.issueClient("service-7")
	f.issueClient("other")
	f.revoke()
	hcl := strings.TrimSuffix(f.hcl("db"), "}\n") + fmt.Sprintf(`
  client_ca_file      = %q
  client_certificates = "required"
  crl_file            = %q
  client_map { same_user = true }
  client_map {
    common_name = "service-*"
    users       = ["app"]
  }
}
`, f.path("root.crt"), f.path("clients.crl"))
	p := serve(t, listenHCL+hcl+clusterHCL(c))
	login := func(libDir, name string) (string, error) {
		params := "sslcert=/nonexistent"
		if name != "" {
			params = fmt.Sprintf("sslcert=%s sslkey=%s", f.path(name+".crt"), f.path(name+".key"))
		}
		_, stderr, err := psql(t, libDir, p.named("db.test", f.path("root.crt"), params), "-c", "SELECT 1")
		return stderr, err
	}
	for library, libDir := range libpqs(t) {
		for name, want := range map[string]string{
			"":          "FATAL:  connection requires a valid client certificate",
			"app":       "",
			"service-7": "",
			"other":     `FATAL:  client certificate of "other" may not log in as user "app"`,
		} {
			if stderr, err := login(libDir, name); (err == nil) != (want == "") || !strings.Contains(stderr, want) {
				t.Errorf("%s with certificate %q: %v, %s, want %q", library, name, err, stderr, want)
			}
		}
	}
	f.revoke(app)
	waitFor(t, "the revoked certificate is refused", func() bool {
		stderr, err := login("", "app")
		return err != nil && strings.Contains(stderr, "client certificate is not accepted: it was revoked")
	})
	if stderr, err := login("", "service-7"); err != nil {
		t.Errorf("another certificate: %s", stderr)
	}
}
