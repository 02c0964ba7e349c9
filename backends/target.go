package backends

import (
	"crypto/x509"
	"fmt"
	"net"
	"slices"
)

// TLSMode says how much of TLS a server must offer and prove. The words mean what they mean for libpq's sslmode (manual,
// "SSL Support"). The zero value is [TLSOff].
type TLSMode uint8

// The TLS modes.
const (
	// TLSOff speaks no TLS.
	TLSOff TLSMode = iota
	// TLSRequire encrypts and looks at no certificate, which keeps out those who only listen.
	TLSRequire
	// TLSVerifyCA wants a certificate that one of the roots vouches for, for whatever name.
	TLSVerifyCA
	// TLSVerifyFull wants in addition that the certificate is for the server's name. Unlike libpq, and like every browser,
	// it looks at the subject alternative names only, never at the common name.
	TLSVerifyFull
)

var tlsModeNames = [...]string{
	TLSOff: "off", TLSRequire: "require", TLSVerifyCA: "verify-ca", TLSVerifyFull: "verify-full",
}

// String returns the word the configuration uses.
func (m TLSMode) String() string {
	if int(m) < len(tlsModeNames) {
		return tlsModeNames[m]
	}
	return fmt.Sprintf("TLSMode(%d)", m)
}

// ParseTLSMode returns the mode that a word of the configuration names.
func ParseTLSMode(s string) (TLSMode, error) {
	if i := slices.Index(tlsModeNames[:], s); i >= 0 {
		return TLSMode(i), nil
	}
	return 0, fmt.Errorf(`%q is not a TLS mode: write "off", "require", "verify-ca" or "verify-full"`, s)
}

// Verified reports whether a server reached in this mode is known to be the one that was meant. That is so for
// [TLSVerifyFull] alone: with [TLSVerifyCA] it may be any server that has a certificate of the same CA.
func (m TLSMode) Verified() bool { return m == TLSVerifyFull }

// Target is one server and the way to it. It is a plain value; nothing writes to RootCAs.
type Target struct {
	// Cluster and Name say which server it is; Name is unique in its cluster.
	Cluster, Name string
	// Network is "tcp", and Address a host and port, or "unix", and Address the path of the socket itself:
	// the server's directory and in it .s.PGSQL.<port>.
	Network, Address string
	// TLS is ignored for unix sockets, on which PostgreSQL speaks none.
	TLS TLSMode
	// RootCAs are the roots for the two modes that verify. Nil means the system's.
	RootCAs *x509.CertPool
	// ServerName is the name that is verified, and sent in SNI. Empty means the host of Address.
	ServerName string
	// SendProxyProtocol begins each connection with a PROXY header of version 2, for servers that expect one: another proxy.
	SendProxyProtocol bool
	// Weight and Zone are passed on in policy.Backend.
	Weight int
	Zone   string
	// MaxSessions is how many sessions the server may be given at a time; zero is no limit.
	MaxSessions int
}

// Secure reports whether nobody on the way can read or change what is sent, or pass for the server: a unix socket, or
// TLS in a verified mode. Only there may a password travel in clear.
func (t Target) Secure() bool { return t.Network == "unix" || t.TLS.Verified() }

// SamePlace reports whether t and u name the same server at the same address, however it is reached there.
func (t Target) SamePlace(u Target) bool { return placeOf(t) == placeOf(u) }

// SameServer reports whether t and u name the same server and reach it in the same way, whatever its weight.
func (t Target) SameServer(u Target) bool {
	return t.Cluster == u.Cluster && t.Name == u.Name && t.Network == u.Network && t.Address == u.Address &&
		t.TLS == u.TLS && t.ServerName == u.ServerName && t.RootCAs.Equal(u.RootCAs) && t.SendProxyProtocol == u.SendProxyProtocol
}

// serverName returns the name to verify.
func (t Target) serverName() string {
	if t.ServerName != "" {
		return t.ServerName
	}
	host, _, err := net.SplitHostPort(t.Address)
	if err != nil {
		return t.Address
	}
	return host
}
