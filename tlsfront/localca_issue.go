package tlsfront

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour
	backdate = time.Hour // for clients whose clock is behind
)

// issue makes a leaf with a key of its own. ECDSA with SHA-256 makes SHA-256 the hash of tls-server-end-point.
func (ca *LocalCA) issue(now time.Time) (*tls.Certificate, error) {
	return newCertificate(&x509.Certificate{
		Subject:            pkix.Name{CommonName: "pgreplicaproxy"},
		DNSNames:           ca.dnsNames,
		IPAddresses:        ca.ips,
		NotBefore:          now.Add(-backdate),
		NotAfter:           now.Add(leafLife),
		KeyUsage:           x509.KeyUsageDigitalSignature,
		ExtKeyUsage:        []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, ca.root)
}

// newRoot makes a root for a host. It may sign server certificates and nothing else: no client certificates, no further
// authorities. It has no name constraints, since the names an operator configures may change and the root must not.
func newRoot(host string, now time.Time) (*tls.Certificate, error) {
	return newCertificate(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "pgreplicaproxy local CA (" + host + ")"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}, nil)
}

// newCertificate signs a template for a new P-256 key with issuer, or with that very key when issuer is nil. x509 picks
// a random serial number.
func newCertificate(template *x509.Certificate, issuer *tls.Certificate) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if issuer == nil {
		issuer = &tls.Certificate{Leaf: template, PrivateKey: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Leaf, key.Public(), issuer.PrivateKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
