package policy

import (
	"fmt"
	"slices"
)

// Role is what a server is at the moment, by its own word and the monitor's judgement. The zero value is [Unknown], and
// an unknown server is never given a session.
type Role uint8

// The roles a server can have.
const (
	// Unknown is a server that was not asked yet, does not answer, or whose answers contradict another's.
	Unknown Role = iota
	// Primary is a server for which pg_is_in_recovery() is false, and the only such one of its cluster.
	Primary
	// Replica is a server for which pg_is_in_recovery() is true: a standby that takes read-only sessions.
	Replica
)

var roleNames = [...]string{Unknown: "unknown", Primary: "primary", Replica: "replica"}

// String returns the role's name as configuration, logs and messages spell it.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("Role(%d)", r)
}

// Target is what a route asks for. The zero value is [TargetPrimary], so that a route which says nothing never hands
// out a stale read.
type Target uint8

// What a route can ask for.
const (
	// TargetPrimary takes the primary and nothing else.
	TargetPrimary Target = iota
	// TargetReplica takes a replica, and the primary only where the route's fallback allows it.
	TargetReplica
	// TargetAny takes replicas and the primary alike.
	TargetAny
)

var targetNames = [...]string{TargetPrimary: "primary", TargetReplica: "replica", TargetAny: "any"}

// String returns the word the configuration uses.
func (t Target) String() string {
	if int(t) < len(targetNames) {
		return targetNames[t]
	}
	return fmt.Sprintf("Target(%d)", t)
}

// Noun names the kind of server asked for, for messages: "primary", "replica" or "server".
func (t Target) Noun() string {
	if t == TargetAny {
		return "server"
	}
	return t.String()
}

// ParseTarget returns the target that a word of the configuration names.
func ParseTarget(s string) (Target, error) {
	if i := slices.Index(targetNames[:], s); i >= 0 {
		return Target(i), nil
	}
	return 0, fmt.Errorf(`%q is not a role: write "primary", "replica" or "any"`, s)
}

// Fallback says when a route for replicas may use the primary. The zero value is [FallbackNever].
type Fallback uint8

// The fallbacks of a route.
const (
	// FallbackNever keeps a route for replicas off the primary, whatever happens.
	FallbackNever Fallback = iota
	// FallbackNoReplica lets it use the primary while there is no replica that takes sessions, far behind or not.
	FallbackNoReplica
	// FallbackLagging lets it use the primary also while every replica lags; and for a client that wants to read at a certain
	// position, when waiting for a replica to get there has brought nothing.
	FallbackLagging
)

var fallbackNames = [...]string{FallbackNever: "never", FallbackNoReplica: "no_replica", FallbackLagging: "lagging"}

// String returns the word the configuration uses.
func (f Fallback) String() string {
	if int(f) < len(fallbackNames) {
		return fallbackNames[f]
	}
	return fmt.Sprintf("Fallback(%d)", f)
}

// ParseFallback returns the fallback that a word of the configuration names.
func ParseFallback(s string) (Fallback, error) {
	if i := slices.Index(fallbackNames[:], s); i >= 0 {
		return Fallback(i), nil
	}
	return 0, fmt.Errorf(`%q is not a fallback: write "never", "no_replica" or "lagging"`, s)
}

// Serves reports whether a session placed for t may live on a server of role r: a question asked when the session is
// placed and again whenever the server's role changes.
func (t Target) Serves(r Role, f Fallback) bool {
	switch r {
	case Primary:
		return t != TargetReplica || f != FallbackNever
	case Replica:
		return t != TargetPrimary
	default:
		return false
	}
}
