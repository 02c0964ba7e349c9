package tlsfront

import (
	"context"
	"crypto/tls"
)

// ServerConfig returns a finished configuration for listeners, with certificates from get. A source of certificates is
// nothing but such a function: CertificateFiles.GetCertificate and LocalCA.GetCertificate are two. It is called once
// for every handshake, concurrently, and must return quickly.
//
// minVersion is tls.VersionTLS12 or tls.VersionTLS13; anything lower, zero included, means TLS 1.2.
//
// Session tickets are off, as in PostgreSQL: a resumed session does not present a certificate, so the client would bind
// SCRAM to the one of the first session while we know only the present one. Key exchange is left to crypto/tls, whose
// own choice begins with X25519MLKEM768 and includes the P-256 of old clients; crypto/tls never renegotiates as a server.
func ServerConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), minVersion uint16) *tls.Config {
	return &tls.Config{
		GetCertificate:         recordLeaf(get),
		NextProtos:             []string{alpn}, // a client that offers only others gets the alert no_application_protocol
		SessionTicketsDisabled: true,
		// Small first records are for browsers, which begin to render: here they only cost.
		DynamicRecordSizingDisabled: true,
		MinVersion:                  max(minVersion, tls.VersionTLS12),
		// For TLS 1.2 alone: forward secrecy and AEAD, so neither static RSA nor CBC. TLS 1.3 has nothing else.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}

// presentedLeaf receives the certificate that one handshake presented: what tls-server-end-point is computed from on
// the client's side, and what tls.ConnectionState does not tell on ours. It stays nil when the handshake failed before a
// certificate was chosen. It may be read once the handshake has returned.
type presentedLeaf struct {
	cert *tls.Certificate
}

type presentedLeafKey struct{}

// withLeaf returns a context for tls.Conn.HandshakeContext under which a configuration of ServerConfig fills rec.
func withLeaf(ctx context.Context, rec *presentedLeaf) context.Context {
	return context.WithValue(ctx, presentedLeafKey{}, rec)
}

// recordLeaf wraps get so that its answer is also left in the presentedLeaf of the handshake, if there is one. Asking
// get again after the handshake would not do: a reload may have come between.
func recordLeaf(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := get(hello)
		if err != nil {
			return nil, err
		}
		if rec, ok := hello.Context().Value(presentedLeafKey{}).(*presentedLeaf); ok {
			rec.cert = cert
		}
		return cert, nil
	}
}
