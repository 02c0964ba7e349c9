package policy

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Access is one rule of who may come in. Every criterion that is set must match; one that is left empty matches everything.
// At most one of User and UserPattern is set, and at most one of Database and DatabasePattern.
type Access struct {
	// Allow lets in whom the rule takes; without it they are refused.
	Allow bool
	// From are the networks that clients come from; Unix takes clients of unix sockets. Without either the rule takes both.
	From []netip.Prefix
	Unix bool
	// TLS asks for a connection with or without TLS, Certificate for a client that has shown a certificate which was verified.
	TLS, Certificate Condition
	// User and Database match one name, byte for byte, in the length that a server knows. Database is the name that the
	// server sees: a suffix of a route leads around no rule.
	User, Database string
	// UserPattern and DatabasePattern match as path.Match does.
	UserPattern, DatabasePattern string
	// Reason is told to whom the rule refuses; it may be empty.
	Reason string
}

// Entry is what the access rules say of a request.
type Entry struct {
	Allowed bool
	// Rule is the index of the rule that decided in Rules.Access, -1 for none.
	Rule int
	// Reason says in one sentence why the request is refused, fit for the client and for the log. It depends on nothing but
	// the request and the rules, so it tells nobody which roles or databases exist.
	Reason string
}

// Enter asks the access rules in their order; the first that matches decides. Without rules everybody is let in; where there
// are some and none matches, the request is refused, as pg_hba.conf has it.
func (r Rules) Enter(q Request) Entry {
	if len(r.Access) == 0 {
		return Entry{Allowed: true, Rule: -1}
	}
	database := q.Database
	if i, name := r.route(q); i >= 0 {
		database = name
	}
	for i := range r.Access {
		rule := &r.Access[i]
		switch {
		case !rule.match(q, clip(database)):
		case rule.Allow:
			return Entry{Allowed: true, Rule: i}
		default:
			reason := "an access rule refuses " + q.origin()
			if rule.Reason != "" {
				reason += ": " + rule.Reason
			}
			return Entry{Rule: i, Reason: reason}
		}
	}
	return Entry{Rule: -1, Reason: "no access rule for " + q.origin()}
}

func (a *Access) match(q Request, database string) bool {
	return a.takesAddress(q.Address) &&
		a.TLS.met(q.TLS) && a.Certificate.met(q.Certificate) &&
		takesName(a.User, a.UserPattern, clip(q.User)) &&
		takesName(a.Database, a.DatabasePattern, database)
}

// takesAddress takes the zero address for a unix socket. An IPv4 client of an IPv6 socket is an IPv4 client.
func (a *Access) takesAddress(addr netip.Addr) bool {
	switch {
	case len(a.From) == 0 && !a.Unix:
		return true
	case !addr.IsValid():
		return a.Unix
	}
	addr = addr.Unmap().WithZone("")
	return slices.ContainsFunc(a.From, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func takesName(name, pattern, got string) bool {
	switch {
	case name != "":
		return clip(name) == got
	case pattern != "":
		ok, err := path.Match(pattern, got)
		return ok && err == nil
	default:
		return true
	}
}

// clip cuts a name as servers do that get a longer one than they can know (NAMEDATALEN in src/include/pg_config_manual.h):
// a rule for the short name must not be missed by adding to it.
func clip(name string) string {
	const most = 63
	return name[:min(len(name), most)]
}

// origin describes a client in the words of PostgreSQL's message for a missing pg_hba.conf entry.
func (q Request) origin() string {
	host, secured := "[local]", "no encryption"
	if q.Address.IsValid() {
		host = q.Address.Unmap().String()
	}
	if q.TLS {
		secured = "TLS"
	}
	return fmt.Sprintf("host %q, user %q, database %q, %s", host, shorten(q.User), shorten(q.Database), secured)
}

// String describes the rule as the configuration writes it.
func (a *Access) String() string {
	action := "refuse"
	if a.Allow {
		action = "allow"
	}
	parts := []string{fmt.Sprintf("action = %q", action)}
	if a.Unix || len(a.From) > 0 {
		var from []string
		if a.Unix {
			from = append(from, `"unix"`)
		}
		for _, p := range a.From {
			from = append(from, fmt.Sprintf("%q", p))
		}
		parts = append(parts, "from = ["+strings.Join(from, ", ")+"]")
	}
	for _, criterion := range []struct{ name, value string }{
		{"tls", a.TLS.word()},
		{"client_certificate", a.Certificate.word()},
		{"user", a.User},
		{"user_pattern", a.UserPattern},
		{"database", a.Database},
		{"database_pattern", a.DatabasePattern},
		{"reason", a.Reason},
	} {
		if criterion.value != "" {
			parts = append(parts, fmt.Sprintf("%s = %q", criterion.name, criterion.value))
		}
	}
	return strings.Join(parts, ", ")
}

// Condition is what a rule wants of something that a client may have or not. The zero value wants nothing.
type Condition uint8

const (
	// Either takes clients with it and without.
	Either Condition = iota
	// With takes only clients that have it.
	With
	// Without takes only clients that do not.
	Without
)

var conditionNames = [...]string{Either: "any", With: "required", Without: "none"}

// String returns the word the configuration uses.
func (c Condition) String() string {
	if int(c) < len(conditionNames) {
		return conditionNames[c]
	}
	return fmt.Sprintf("Condition(%d)", c)
}

// ParseCondition returns the condition that a word of the configuration names.
func ParseCondition(s string) (Condition, error) {
	if i := slices.Index(conditionNames[:], s); i >= 0 {
		return Condition(i), nil
	}
	return 0, fmt.Errorf(`%q is not a condition: write "any", "required" or "none"`, s)
}

// word is the condition's word, empty for one that wants nothing.
func (c Condition) word() string {
	if c == Either {
		return ""
	}
	return c.String()
}

func (c Condition) met(has bool) bool { return c == Either || has == (c == With) }
