package tlsfront

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// CertificateFile names a certificate and its key on disk, both PEM. CertFile holds the leaf first, then the
// intermediates in order. Both may be the same file.
type CertificateFile struct {
	CertFile, KeyFile string
}

// CheckCertificateFile reads one pair just as LoadCertificateFiles does and forgets it. The error says why the pair
// cannot be served, the warnings what an operator should know about one that can.
func CheckCertificateFile(pair CertificateFile) (warnings []string, err error) {
	loaded, err := loadPair(pair)
	if err != nil {
		return nil, err
	}
	return loaded.warnings(time.Now()), nil
}

// loadedPair is a pair that can be served.
type loadedPair struct {
	CertificateFile
	cert    *tls.Certificate // Leaf is set
	exposed bool             // the key file can be read by more users than it should
	loaded  time.Time        // when the certificate was taken into use
}

func loadPair(pair CertificateFile) (*loadedPair, error) {
	certPEM, err := os.ReadFile(pair.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, info, err := readFile(pair.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read key of certificate %s: %w", pair.CertFile, err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	switch {
	case err != nil && bytes.Contains(keyPEM, []byte("ENCRYPTED")):
		return nil, fmt.Errorf("key %s is protected by a passphrase: write it without one (openssl pkey)", pair.KeyFile)
	case err != nil:
		return nil, fmt.Errorf("certificate %s with key %s: %w", pair.CertFile, pair.KeyFile, err)
	}
	return &loadedPair{CertificateFile: pair, cert: &cert, exposed: exposed(info)}, nil
}

// warnings tells what is doubtful about the pair at the given time.
func (p *loadedPair) warnings(now time.Time) []string {
	var all []string
	warn := func(format string, args ...any) {
		all = append(all, fmt.Sprintf(format, args...))
	}
	leaf := p.cert.Leaf
	if w := validityWarning(leaf, now); w != "" {
		warn("certificate %s %s", p.CertFile, w)
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		warn("certificate %s has no subject alternative name: sslmode=verify-full works with libpq at most", p.CertFile)
	}
	// RFC 5929 section 4.1 takes the hash of the signature algorithm, and these have none: libpq then gives up with
	// "could not find digest" unless it is told channel_binding=disable.
	if a := leaf.SignatureAlgorithm; a == x509.PureEd25519 || a == x509.UnknownSignatureAlgorithm {
		warn("certificate %s is signed with %v, for which SCRAM channel binding is undefined: clients with "+
			"channel_binding=prefer, libpq's default, fail to log in where SCRAM-SHA-256-PLUS is relayed; use ECDSA or RSA", p.CertFile, a)
	}
	if p.exposed {
		warn("key %s can be read by other users: chmod 0600 %[1]s", p.KeyFile)
	}
	return all
}

// validityWarning says what is wrong with the validity of cert at the given time, as the end of a sentence; "" is
// nothing. Soon is as in CertificateStatus.ExpiresSoon.
func validityWarning(cert *x509.Certificate, now time.Time) string {
	switch left := cert.NotAfter.Sub(now); {
	case now.Before(cert.NotBefore):
		return "is not valid before " + cert.NotBefore.UTC().Format(time.RFC3339)
	case left < 0:
		return "expired at " + cert.NotAfter.UTC().Format(time.RFC3339)
	case left < renewalMargin(cert.NotBefore, cert.NotAfter):
		return "expires at " + cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return ""
}

// readFile reads a file and tells its mode, both of the same open file.
func readFile(name string) ([]byte, fs.FileInfo, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(f)
	return data, info, err
}
