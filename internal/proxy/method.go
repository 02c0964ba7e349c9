package proxy

import (
	"fmt"
	"slices"
	"strings"
)

// Methods is a set of authentication methods that a server may ask of a client. The zero value allows none.
type Methods uint8

// The methods, by the names of pg_hba.conf where it has them (chapter "Client Authentication"). Only [MethodSCRAM] keeps the
// password from everybody in between, and proves to the client that the server knows it too.
const (
	// MethodSCRAM is SCRAM-SHA-256, with channel binding or without.
	MethodSCRAM Methods = 1 << iota
	// MethodMD5 sends a hash that whoever reads it can attack offline.
	MethodMD5
	// MethodPassword sends the password itself, readable by the proxy and by whoever reads the server leg.
	MethodPassword
	// MethodOAuth sends a bearer token (OAUTHBEARER), readable like a password.
	MethodOAuth
	// MethodGSS is GSSAPI or SSPI authentication, without encryption.
	MethodGSS
	// MethodTrust is AuthenticationOk without any challenge: trust, peer, ident or cert in the eyes of pg_hba.conf, where
	// the client it sees is the proxy.
	MethodTrust
)

var methodNames = []string{"scram-sha-256", "md5", "password", "oauth", "gss", "trust"}

// MethodNames lists every name that ParseMethod takes.
func MethodNames() []string { return slices.Clone(methodNames) }

// ParseMethod returns the method that a word of the configuration names.
func ParseMethod(s string) (Methods, error) {
	if i := slices.Index(methodNames, s); i >= 0 {
		return 1 << i, nil
	}
	return 0, fmt.Errorf("%q is not an authentication method: the methods are %s", s, strings.Join(methodNames, ", "))
}

// Has reports whether every method of m2 is in m.
func (m Methods) Has(m2 Methods) bool { return m&m2 == m2 }

// String lists the methods by name.
func (m Methods) String() string {
	var names []string
	for i, name := range methodNames {
		if m.Has(1 << i) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}
