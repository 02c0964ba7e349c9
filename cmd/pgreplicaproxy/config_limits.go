package main

import (
	"math"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/internal/admission"
)

// limits returns the limits of the file, each with its default where it is left out.
func (c *converter) limits(raw *rawLimits) admission.Limits {
	if raw == nil {
		raw = &rawLimits{}
	}
	l := admission.Limits{
		Connections:         c.integer(raw.Connections, defaultLimits.Connections, 0, math.MaxInt32),
		PerAddress:          c.integer(raw.ConnectionsPerAddress, defaultLimits.PerAddress, 0, math.MaxInt32),
		PerPrefix:           c.integer(raw.ConnectionsPerPrefix, defaultLimits.PerPrefix, 0, math.MaxInt32),
		PerUser:             c.integer(raw.ConnectionsPerUser, defaultLimits.PerUser, 0, math.MaxInt32),
		PerDatabase:         c.integer(raw.ConnectionsPerDatabase, defaultLimits.PerDatabase, 0, math.MaxInt32),
		Logins:              c.integer(raw.Logins, defaultLimits.Logins, 0, math.MaxInt32),
		LoginsPerPrefix:     c.integer(raw.LoginsPerPrefix, defaultLimits.LoginsPerPrefix, 0, math.MaxInt32),
		Handshakes:          c.integer(raw.Handshakes, defaultLimits.Handshakes, 0, math.MaxInt32),
		HandshakesPerSecond: c.integer(raw.HandshakesPerSecond, defaultLimits.HandshakesPerSecond, 0, math.MaxInt32/2),
		PrefixIPv4:          c.integer(raw.PrefixIPv4, defaultLimits.PrefixIPv4, 1, 32),
		PrefixIPv6:          c.integer(raw.PrefixIPv6, defaultLimits.PrefixIPv6, 1, 128),
		Throttle:            c.throttle(raw.Throttle),
	}
	if raw.Reserved != nil {
		l.Reserved = c.reserved(raw.Reserved, l.Connections)
	}
	return l
}

func (c *converter) throttle(raw *rawThrottle) admission.Throttle {
	if raw == nil {
		raw = &rawThrottle{}
	}
	t := admission.Throttle{
		Failures: c.integer(raw.Failures, defaultLimits.Throttle.Failures, 0, math.MaxInt32),
		Delay:    c.duration(raw.Delay, defaultLimits.Throttle.Delay, 1),
		MaxDelay: c.duration(raw.MaxDelay, defaultLimits.Throttle.MaxDelay, 1),
	}
	if t.MaxDelay < t.Delay {
		c.fail(rangeOf(raw.MaxDelay, raw.Def), "Longest delay shorter than the first",
			"delay is %v, and grows up to max_delay, which is %v. Give max_delay at least as much.", t.Delay, t.MaxDelay)
	}
	return t
}

// reserved reads for whom places among the connections are kept.
func (c *converter) reserved(raw *rawReserved, connections int) admission.Reserved {
	r := admission.Reserved{Places: c.integer(raw.Places, 0, 0, math.MaxInt32)}
	for _, w := range c.words(raw.Users) {
		r.Users = append(r.Users, w.text)
	}
	for _, w := range c.words(raw.Networks) {
		network, err := parseNetwork(w.text)
		if err != nil {
			c.fail(w.at, "Not a network", `%s.`, sentence(err.Error()))
			continue
		}
		r.Networks = append(r.Networks, network)
	}
	switch {
	case r.Places > 0 && len(r.Users)+len(r.Networks) == 0:
		c.fail(raw.Def, "Reserved for nobody", `Say for whom the places are kept: users = ["postgres"], or networks = ["10.0.0.0/24"].`)
	case r.Places > 0 && connections == 0:
		c.fail(rangeOf(raw.Places, raw.Def), "Places of no number", "Places can be kept only where connections has a limit.")
	case connections > 0 && r.Places >= connections:
		c.fail(rangeOf(raw.Places, raw.Def), "Everything reserved",
			"places is %d, and connections %d: nobody else could come in. Write a smaller number.", r.Places, connections)
	}
	return r
}

// integer returns a whole number between least and most.
func (c *converter) integer(a *hcl.Attribute, fallback, least, most int) int {
	n, ok := value[int](c, a, anInt)
	if !ok {
		return fallback
	}
	if n < least || n > most {
		c.fail(a.Expr.Range(), "Number out of range", "%s takes a number from %d to %d.", a.Name, least, most)
		return fallback
	}
	return n
}
