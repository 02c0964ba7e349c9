package tlsfront

import (
	"crypto/x509"
	"time"
)

// CertificateStatus is what an operator asks of one certificate that clients are shown. It is a plain value.
type CertificateStatus struct {
	// Source is "file", "acme" or "local CA".
	Source string
	// File is the certificate's file; "" unless Source is "file".
	File string
	// Names are the names the certificate is valid for; for one that was not obtained yet, the name it is to have.
	Names []string
	// Issuer is the issuer's name, such as "CN=R11,O=Let's Encrypt,C=US"; "" for a certificate that was not obtained yet.
	Issuer string
	// NotBefore and NotAfter bound its validity; both are zero for a certificate that was not obtained yet.
	NotBefore, NotAfter time.Time
	// Renewed is when this process took it into use.
	Renewed time.Time
	// LastError says why it could not be obtained, renewed or read the last time; "" when that went well. LastErrorAt is
	// when.
	LastError   string
	LastErrorAt time.Time
}

// Obtained reports whether there is such a certificate at all.
func (s CertificateStatus) Obtained() bool { return !s.NotAfter.IsZero() }

// ExpiresSoon reports whether the certificate has expired, or has so little of its life left that whoever renews it has
// missed a turn: less than a fifth, and less than three weeks. It is what to raise an alarm by.
func (s CertificateStatus) ExpiresSoon(now time.Time) bool {
	return s.NotAfter.Sub(now) < renewalMargin(s.NotBefore, s.NotAfter)
}

// renewalMargin is how much of a certificate's life is left at the least when renewals work.
func renewalMargin(notBefore, notAfter time.Time) time.Duration {
	const day = 24 * time.Hour
	return min(notAfter.Sub(notBefore)/5, 21*day)
}

// statusOf fills in what the certificate itself tells.
func statusOf(source string, leaf *x509.Certificate) CertificateStatus {
	return CertificateStatus{
		Source: source, Names: certificateNames(leaf), Issuer: leaf.Issuer.String(),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}
