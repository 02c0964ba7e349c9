package tlsfront

import (
	"crypto/x509"
	"path"
	"slices"
)

// ClientRule lets certificates that match it log in as some users. Patterns are those of path.Match; what is empty matches
// every certificate.
type ClientRule struct {
	// CommonName is a pattern for the subject's common name. DNSName, Email and URI are patterns of which one of the
	// certificate's alternative names of that kind has to match one.
	CommonName, DNSName, Email, URI string
	// Users are the names that it may use. SameUser adds the common name itself.
	Users    []string
	SameUser bool
}

// longestName is how much of a user name servers look at (NAMEDATALEN in src/include/pg_config_manual.h): a longer one would be
// another one to them.
const longestName = 63

// mayUse reports whether a certificate may log in as a user: without rules, any may.
func mayUse(rules []ClientRule, cert *x509.Certificate, user string) bool {
	if len(rules) == 0 {
		return true
	}
	return len(user) <= longestName && slices.ContainsFunc(rules, func(r ClientRule) bool {
		return r.matches(cert) && (slices.Contains(r.Users, user) || r.SameUser && user == cert.Subject.CommonName)
	})
}

func (r ClientRule) matches(cert *x509.Certificate) bool {
	var uris []string
	for _, uri := range cert.URIs {
		uris = append(uris, uri.String())
	}
	return matchesOne(r.CommonName, []string{cert.Subject.CommonName}) && matchesOne(r.DNSName, cert.DNSNames) &&
		matchesOne(r.Email, cert.EmailAddresses) && matchesOne(r.URI, uris)
}

// matchesOne reports whether a pattern matches one of the names. An empty pattern asks for nothing.
func matchesOne(pattern string, names []string) bool {
	return pattern == "" || slices.ContainsFunc(names, func(name string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}
