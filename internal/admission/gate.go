package admission

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Bounds that no operator needs to choose.
const (
	// lateVisits are received at a time beyond the limit of logins, at most lateVisitsPerPrefix of one prefix: for
	// CancelRequests, and to tell the others why they are refused. LatePatience is the time they have for it.
	lateVisits, lateVisitsPerPrefix = 64, 16
	LatePatience                    = 3 * time.Second
	// turnPatience is how long a connection may wait for its turn among those of its prefix.
	turnPatience = 5 * time.Second
)

// Gate is where everybody has to pass. Its methods may be called from anywhere; a nil Gate lets everybody in.
type Gate struct {
	clock clock

	mu       sync.Mutex
	limits   Limits
	logins   counts[netip.Prefix]
	late     counts[netip.Prefix]
	sessions int
	address  counts[netip.Addr]
	prefix   counts[netip.Prefix]
	user     counts[string]
	database counts[string]
	servers  counts[string]

	arrivals   buckets[netip.Prefix]
	broadcasts buckets[netip.Prefix]
	broadcast  *bucket // of all
	lines      lines   // of the log

	throttle throttle
	turns    chan struct{} // one for each handshake that may compute

	refused, flooded atomic.Uint64
}

// clock is time as the gate sees it.
type clock struct {
	now func() time.Time
	// wait returns when d is over, or the error of ctx when that ends before.
	wait func(ctx context.Context, d time.Duration) error
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// New returns a gate with these limits.
func New(limits Limits) *Gate { return newGate(limits, clock{time.Now, wait}) }

func newGate(limits Limits, c clock) *Gate {
	g := &Gate{
		clock:      c,
		broadcasts: newBuckets[netip.Prefix](broadcastsPerPrefix, broadcastsPerPrefixBurst),
		broadcast:  rate.NewLimiter(broadcastsInAll, broadcastsInAllBurst),
		lines:      newLines(),
	}
	g.throttle.clock = c
	g.throttle.pairs = newLRU[pair, *record](tracked)
	g.SetLimits(limits)
	return g
}

// SetLimits puts other limits in force. Whoever is in stays.
func (g *Gate) SetLimits(limits Limits) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if perSecond := rate.Limit(limits.HandshakesPerSecond); g.arrivals.perSecond != perSecond {
		g.arrivals = newBuckets[netip.Prefix](perSecond, 2*limits.HandshakesPerSecond)
	}
	if n := limits.handshakes(); n != cap(g.turns) {
		g.turns = make(chan struct{}, n) // handshakes under way give their turn back to the old one
	}
	g.limits = limits
	g.throttle.set(limits.Throttle)
}

// ErrFlood is what Arrive returns for connections that come so fast that an answer to each would help whoever sends them.
var ErrFlood = errors.New("too many connections at once")

// Arrive begins a visit. It may wait for the turn of the connection's prefix. With an error the connection is to be closed
// without a word. An address that is not valid is a unix socket, which no limit of addresses holds for.
func (g *Gate) Arrive(ctx context.Context, addr netip.Addr) (*Visit, error) {
	if g == nil {
		return nil, nil
	}
	v := &Visit{gate: g, addr: addr}
	delay, err := g.arrive(v)
	if err == nil && delay > 0 {
		err = g.clock.wait(ctx, delay)
	}
	if err != nil {
		v.Leave()
		return nil, err
	}
	return v, nil
}

// arrive takes a place for a login, and returns how long the connection has to wait.
func (g *Gate) arrive(v *Visit) (delay time.Duration, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &g.limits
	v.prefix = l.prefix(v.addr)
	reserved := l.Reserved.holdsNetwork(v.addr)
	if v.addr.IsValid() && !reserved && l.HandshakesPerSecond > 0 {
		var ok bool
		if delay, ok = g.arrivals.take(v.prefix, g.clock.now(), turnPatience); !ok {
			g.flooded.Add(1)
			return 0, ErrFlood
		}
	}
	full := ""
	switch {
	case reserved:
	case l.Logins > 0 && g.logins.total >= l.Logins:
		full = "logins"
	case v.prefix.IsValid() && l.LoginsPerPrefix > 0 && g.logins.of(v.prefix) >= l.LoginsPerPrefix:
		full = "logins_per_prefix"
	}
	switch {
	case full == "":
		g.logins.add(v.prefix)
		v.held = loginPlace
	case g.late.total >= lateVisits || v.prefix.IsValid() && g.late.of(v.prefix) >= lateVisitsPerPrefix:
		g.flooded.Add(1)
		return 0, ErrFlood
	default:
		g.late.add(v.prefix)
		v.held = latePlace
		v.late = lateError(full, v.prefix)
	}
	return delay, nil
}

func lateError(limit string, p netip.Prefix) *LimitError {
	if limit == "logins" {
		return &LimitError{limit, "too many clients are logging in already"}
	}
	return &LimitError{limit, fmt.Sprintf("too many clients from %v are logging in already", p)}
}

// Visit is one connection. Its methods may be called from anywhere; a nil Visit is one without limits.
type Visit struct {
	gate   *Gate
	addr   netip.Addr
	prefix netip.Prefix
	late   *LimitError

	// What follows is guarded by gate.mu.
	held           place
	user, database string // of a session
	server         string // empty for none
}

// place is what a visit holds.
type place uint8

const (
	noPlace place = iota
	loginPlace
	latePlace
	sessionPlace
)

// Late returns why the client will be refused, whatever it wants, unless it cancels a query; nil is the usual case.
func (v *Visit) Late() error {
	if v == nil || v.late == nil {
		return nil
	}
	return v.late
}

// Check says whether a session of this user on this database would be let in, had it logged in already. It is asked
// before anything is done for the client, and takes nothing.
func (v *Visit) Check(user, database string) error {
	if v == nil {
		return nil
	}
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	if v.late != nil {
		v.gate.refused.Add(1)
		return v.late
	}
	return v.gate.room(v, user, database)
}

// Enter makes the visit a session, once the client has proven that it is user. Its place among the logins is free again.
func (v *Visit) Enter(user, database string) error {
	if v == nil {
		return nil
	}
	g := v.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if v.held != loginPlace {
		return errors.New("a visit that is no login cannot enter")
	}
	if err := g.room(v, user, database); err != nil {
		return err
	}
	g.logins.remove(v.prefix)
	v.held, v.user, v.database = sessionPlace, user, database
	g.sessions++
	g.address.add(v.addr)
	g.prefix.add(v.prefix)
	g.user.add(user)
	g.database.add(database)
	return nil
}

// room says which limit one more session would break. The caller holds mu.
func (g *Gate) room(v *Visit, user, database string) error {
	l := &g.limits
	limit, message := "", ""
	switch known := v.addr.IsValid(); {
	case l.Connections > 0 && g.sessions >= l.Connections:
		limit, message = "connections", "too many clients already"
	case l.Connections > 0 && g.sessions >= l.Connections-l.Reserved.Places && !l.Reserved.holds(v.addr, user):
		limit, message = "connections", "remaining connection places are reserved"
	case known && over(l.PerAddress, g.address.of(v.addr)):
		limit, message = "connections_per_address", fmt.Sprintf("too many connections from %v", v.addr)
	case known && over(l.PerPrefix, g.prefix.of(v.prefix)):
		limit, message = "connections_per_prefix", fmt.Sprintf("too many connections from %v", v.prefix)
	case over(l.PerUser, g.user.of(user)):
		limit, message = "connections_per_user", fmt.Sprintf("too many connections of user %q", user)
	case over(l.PerDatabase, g.database.of(database)):
		limit, message = "connections_per_database", fmt.Sprintf("too many connections to database %q", database)
	default:
		return nil
	}
	g.refused.Add(1)
	return &LimitError{limit, message}
}

func over(limit, n int) bool { return limit > 0 && n >= limit }

// Sit takes one of the most places that a server has for sessions, in which the visit stays until Rise or Leave. It is false
// when they are taken; most 0 is no limit.
func (v *Visit) Sit(server string, most int) bool {
	if v == nil || most == 0 {
		return true
	}
	g := v.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.servers.of(server) >= most {
		g.refused.Add(1)
		return false
	}
	g.servers.add(server)
	v.server = server
	return true
}

// Free reports whether Sit would be true.
func (v *Visit) Free(server string, most int) bool {
	if v == nil || most == 0 {
		return true
	}
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	return v.gate.servers.of(server) < most
}

// Rise gives the place at a server back.
func (v *Visit) Rise() {
	if v == nil {
		return
	}
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	v.gate.rise(v)
}

func (g *Gate) rise(v *Visit) {
	if v.server != "" {
		g.servers.remove(v.server)
		v.server = ""
	}
}

// Leave ends the visit. It may be called more than once.
func (v *Visit) Leave() {
	if v == nil {
		return
	}
	g := v.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rise(v)
	switch v.held {
	case loginPlace:
		g.logins.remove(v.prefix)
	case latePlace:
		g.late.remove(v.prefix)
	case sessionPlace:
		g.sessions--
		g.address.remove(v.addr)
		g.prefix.remove(v.prefix)
		g.user.remove(v.user)
		g.database.remove(v.database)
	}
	v.held = noPlace
}

// Turn waits until a handshake may compute, and returns what gives the turn back, which may be called more than once. Without
// it, hundreds of handshakes at once would keep sessions from the processors.
func (g *Gate) Turn(ctx context.Context) (done func(), err error) {
	if g == nil {
		return func() {}, nil
	}
	g.mu.Lock()
	turns := g.turns
	g.mu.Unlock()
	select {
	case turns <- struct{}{}:
		return sync.OnceFunc(func() { <-turns }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Stats are figures for metrics.
type Stats struct {
	// Logins and Sessions are those of now, Late those beyond the limit of logins.
	Logins, Late, Sessions int
	// Refused counts refusals that a limit was the reason of, Flooded connections closed without a word, Throttled logins
	// that had to wait or were refused because of failed ones.
	Refused, Flooded, Throttled uint64
	// Pairs is how many pairs of address and user are remembered for failed logins.
	Pairs int
}

// Stats returns the figures of now.
func (g *Gate) Stats() Stats {
	if g == nil {
		return Stats{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{
		Logins: g.logins.total, Late: g.late.total, Sessions: g.sessions,
		Refused: g.refused.Load(), Flooded: g.flooded.Load(),
		Throttled: g.throttle.throttled.Load(), Pairs: g.throttle.size(),
	}
}
