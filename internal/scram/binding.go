package scram

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
)

// EndPoint returns the tls-server-end-point channel binding of a server that presents leaf: the hash of the certificate, by
// the hash function that its signature uses, or SHA-256 where that is MD5 or SHA-1 (RFC 5929 section 4.1; PostgreSQL's
// be_tls_get_certificate_hash). ok is false where nobody defined one, Ed25519 above all, and for a nil leaf:
// SCRAM-SHA-256-PLUS must not be offered or chosen then.
func EndPoint(leaf *x509.Certificate) (hash []byte, ok bool) {
	if leaf == nil {
		return nil, false
	}
	switch leaf.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1,
		x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256:
		sum := sha256.Sum256(leaf.Raw)
		return sum[:], true
	case x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384:
		sum := sha512.Sum384(leaf.Raw)
		return sum[:], true
	case x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512:
		sum := sha512.Sum512(leaf.Raw)
		return sum[:], true
	default:
		return nil, false
	}
}
