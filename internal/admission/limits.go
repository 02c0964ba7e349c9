package admission

import (
	"net/netip"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/cores"
)

// Limits are what an operator allows. Zero means no limit, unless said otherwise. They are read only once in use.
type Limits struct {
	// Connections are the sessions at a time, in all and of one client address, prefix, user and database.
	Connections, PerAddress, PerPrefix, PerUser, PerDatabase int
	// Logins are the connections at a time that are not logged in yet, in all and of one prefix.
	Logins, LoginsPerPrefix int
	// HandshakesPerSecond is how many connections of one prefix are received per second, after a burst of twice as many. More
	// wait for their turn, and are closed without a word when that is too far away.
	HandshakesPerSecond int
	// Handshakes are the TLS handshakes that may compute at a time; zero is as many as there are processors.
	Handshakes int
	// PrefixIPv4 and PrefixIPv6 are the lengths of the networks that count as one prefix; zero is 24 and 64.
	PrefixIPv4, PrefixIPv6 int
	// Reserved are places among Connections that are kept for some.
	Reserved Reserved
	// Throttle slows down failed logins.
	Throttle Throttle
}

// Reserved says for whom places are kept.
type Reserved struct {
	// Places is how many of Limits.Connections nobody else may take.
	Places int
	// Users may take them once they are logged in.
	Users []string
	// Networks may take them, and are not held to the limits of logins and handshakes.
	Networks []netip.Prefix
}

// Throttle says how failed logins of one user from one address slow down the next ones. IPv6 addresses of one /64 are one.
type Throttle struct {
	// Failures is how many are free; zero turns throttling off.
	Failures int
	// Delay is between the next two attempts, and doubles with each failure up to MaxDelay.
	Delay, MaxDelay time.Duration
}

func (l *Limits) handshakes() int {
	if l.Handshakes > 0 {
		return l.Handshakes
	}
	return cores.Count()
}

// prefix returns the network that an address counts for. The zero Prefix is a unix socket, which has no limit of its own.
func (l *Limits) prefix(addr netip.Addr) netip.Prefix {
	bits := l.PrefixIPv6
	if bits == 0 {
		bits = 64
	}
	if addr.Is4() {
		if bits = l.PrefixIPv4; bits == 0 {
			bits = 24
		}
	}
	p, _ := addr.Prefix(bits)
	return p
}

// host returns an address as throttling tells them apart: whoever has an IPv6 address has the whole /64.
func host(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

func (r *Reserved) holdsNetwork(addr netip.Addr) bool {
	return slices.ContainsFunc(r.Networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (r *Reserved) holds(addr netip.Addr, user string) bool {
	return slices.Contains(r.Users, user) || r.holdsNetwork(addr)
}

// LimitError is a limit that was met.
type LimitError struct {
	// Limit is the key of the configuration that sets it.
	Limit string
	// Message says for the client which limit it is.
	Message string
}

// Error returns the message with the limit, for logs.
func (e *LimitError) Error() string { return e.Message + " (" + e.Limit + ")" }
