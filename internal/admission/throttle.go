package admission

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// attemptPatience is how long a login may wait because of failed ones; one that would have to wait longer is refused.
	attemptPatience = 5 * time.Second
	// waitingPerPair and waitingInAll are how many may wait at a time.
	waitingPerPair, waitingInAll = 4, 1000
	// forgetAfter is when a failure is forgotten that no other has followed.
	forgetAfter = 15 * time.Minute
)

// throttle slows down the guessing of passwords: attempts of one user from one address follow each other at a distance that
// doubles with every failure. Others at that address are not concerned.
type throttle struct {
	clock clock

	mu        sync.Mutex
	config    Throttle
	pairs     *lru[pair, *record]
	waiting   int
	throttled atomic.Uint64
}

// pair is whose failures count together.
type pair struct {
	host netip.Prefix
	user string
}

// record is what is known of a pair that has failed.
type record struct {
	failures int
	last     time.Time // the latest failure
	next     time.Time // when the next attempt may begin
	waiting  int
}

// ThrottleError refuses a login because of failed ones before it.
type ThrottleError struct {
	User  string
	After time.Duration // when to try again
}

// Error says it for the log.
func (e *ThrottleError) Error() string {
	return fmt.Sprintf("user %q has failed to log in from there too often, and may try again in %v", e.User, e.After)
}

func (t *throttle) set(c Throttle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config = c
}

func (t *throttle) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.pairs.entries)
}

// Attempt is one login on its way. A nil Attempt is one that nothing holds up.
type Attempt struct {
	throttle *throttle
	pair     pair
	seen     int // failures when it began
}

// Attempt waits until this user may try to log in from here, or returns a *ThrottleError, or the error of ctx.
func (v *Visit) Attempt(ctx context.Context, user string) (*Attempt, error) {
	if v == nil || !v.addr.IsValid() {
		return nil, nil
	}
	t := &v.gate.throttle
	a := &Attempt{throttle: t, pair: pair{host(v.addr), user}}
	delay, err := t.begin(a)
	if err != nil || delay == 0 {
		return a, err
	}
	defer t.waited(a)
	return a, t.clock.wait(ctx, delay)
}

// begin returns how long an attempt has to wait; if it has to, it counts as waiting.
func (t *throttle) begin(a *Attempt) (time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, now := t.record(a.pair), t.clock.now()
	if r == nil {
		return 0, nil
	}
	a.seen = r.failures
	start := now
	if r.next.After(now) {
		start = r.next
	}
	delay := start.Sub(now)
	if delay > attemptPatience || delay > 0 && (r.waiting >= waitingPerPair || t.waiting >= waitingInAll) {
		t.throttled.Add(1)
		return 0, &ThrottleError{User: a.pair.user, After: delay}
	}
	r.next = start.Add(t.distance(r.failures))
	if delay > 0 {
		t.throttled.Add(1)
		r.waiting++
		t.waiting++
	}
	return delay, nil
}

// record returns what is known of a pair, nil for nothing. The caller holds mu.
func (t *throttle) record(p pair) *record {
	r, ok := t.pairs.get(p)
	if ok && t.clock.now().Sub(r.last) > forgetAfter+t.config.MaxDelay {
		t.pairs.remove(p)
		return nil
	}
	return r
}

func (t *throttle) waited(a *Attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
	if r := t.record(a.pair); r != nil && r.waiting > 0 {
		r.waiting--
	}
}

// distance is how long after an attempt the next may begin, when so many have failed.
func (t *throttle) distance(failures int) time.Duration {
	over := failures - t.config.Failures
	if t.config.Failures == 0 || over < 0 {
		return 0
	}
	d := t.config.Delay
	for ; over > 0 && d < t.config.MaxDelay; over-- {
		d *= 2
	}
	return min(d, t.config.MaxDelay)
}

// Check is asked right before the client's proof is judged: of many attempts that began together before any had failed,
// those are refused that come after the free failures.
func (a *Attempt) Check() error {
	if a == nil {
		return nil
	}
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.record(a.pair)
	if r == nil || t.config.Failures == 0 || r.failures-a.seen < t.config.Failures {
		return nil
	}
	t.throttled.Add(1)
	return &ThrottleError{User: a.pair.user, After: max(0, r.next.Sub(t.clock.now()))}
}

// Failed notes that the client could not prove who it is.
func (a *Attempt) Failed() {
	if a == nil {
		return
	}
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.config.Failures == 0 {
		return
	}
	r, now := t.record(a.pair), t.clock.now()
	if r == nil {
		r = &record{}
		t.pairs.put(a.pair, r)
	}
	r.failures++
	r.last = now
	if next := now.Add(t.distance(r.failures)); next.After(r.next) {
		r.next = next
	}
}

// Succeeded forgets what failed before.
func (a *Attempt) Succeeded() {
	if a == nil {
		return
	}
	a.throttle.mu.Lock()
	defer a.throttle.mu.Unlock()
	a.throttle.pairs.remove(a.pair)
}
