package backends

import (
	"crypto/tls"
	"crypto/x509"
)

// tlsConfig returns how TLS is spoken to a server. Sessions are never resumed: a resumed one has no certificate to look
// at, and PostgreSQL gives no tickets anyway (be-secure-openssl.c). The protocol name is sent as PostgreSQL 17 and later
// want it, against cross-protocol attacks (pqcomm.h, PG_ALPN_PROTOCOL).
func tlsConfig(t Target) *tls.Config {
	config := &tls.Config{
		ServerName:             t.serverName(),
		RootCAs:                t.RootCAs,
		NextProtos:             []string{"postgresql"},
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true,
		// Small first records are for browsers.
		DynamicRecordSizingDisabled: true,
	}
	switch t.TLS {
	case TLSRequire:
		config.InsecureSkipVerify = true
	case TLSVerifyCA:
		config.InsecureSkipVerify = true // of the name too; the chain is verified here
		config.VerifyConnection = func(state tls.ConnectionState) error {
			return verifyChain(state.PeerCertificates, t.RootCAs)
		}
	}
	return config
}

// verifyChain does what crypto/tls does by itself, but for the name. Its error is the same type, so that callers need not
// know who verified.
func verifyChain(certs []*x509.Certificate, roots *x509.CertPool) error {
	intermediates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: certs, Err: err}
	}
	return nil
}
