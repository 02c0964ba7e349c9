package admission

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var guessing = Limits{Throttle: Throttle{Failures: 3, Delay: time.Second, MaxDelay: 16 * time.Second}}

// guess is one attempt that fails. It returns how long it waited, or after what time it was told to come again.
func guess(t *testing.T, g *Gate, f *fakeTime, addr, user string) (waited, told time.Duration) {
	t.Helper()
	v := arrive(t, g, addr)
	defer v.Leave()
	began := f.now()
	a, err := v.Attempt(context.Background(), user)
	var throttled *ThrottleError
	if errors.As(err, &throttled) {
		return 0, throttled.After
	}
	if err != nil {
		t.Fatal(err)
	}
	a.Failed()
	return f.now().Sub(began), 0
}

// TestFailuresSlowDown guesses as fast as it can.
func TestFailuresSlowDown(t *testing.T) {
	g, f := newTestGate(guessing)
	var waits []time.Duration
	for range 6 {
		waited, _ := guess(t, g, f, "192.0.2.1", "app")
		waits = append(waits, waited)
	}
	if want := []time.Duration{0, 0, 0, time.Second, 2 * time.Second, 4 * time.Second}; !slices.Equal(waits, want) {
		t.Errorf("got waits %v, want %v", waits, want)
	}
	for _, want := range []time.Duration{8 * time.Second, 16 * time.Second, 16 * time.Second, 16 * time.Second} {
		if _, told := guess(t, g, f, "192.0.2.1", "app"); told != want {
			t.Errorf("got told to come again after %v, want %v", told, want)
		}
		f.add(want)
		if waited, told := guess(t, g, f, "192.0.2.1", "app"); waited != 0 || told != 0 {
			t.Errorf("in time: got a wait of %v, told %v", waited, told)
		}
	}
	for _, other := range [][2]string{{"192.0.2.1", "bob"}, {"192.0.2.2", "app"}, {"2001:db8::1", "app"}} {
		if waited, told := guess(t, g, f, other[0], other[1]); waited != 0 || told != 0 {
			t.Errorf("%v: got a wait of %v, told %v, want it untouched", other, waited, told)
		}
	}
}

func TestSuccessForgets(t *testing.T) {
	g, f := newTestGate(guessing)
	for range 4 {
		guess(t, g, f, "192.0.2.1", "app")
	}
	a, err := arrive(t, g, "192.0.2.1").Attempt(context.Background(), "app")
	if err != nil {
		t.Fatal(err)
	}
	a.Succeeded()
	for range 3 {
		if waited, told := guess(t, g, f, "192.0.2.1", "app"); waited != 0 || told != 0 {
			t.Errorf("after success: got a wait of %v, told %v", waited, told)
		}
	}
}

func TestFailuresAreForgotten(t *testing.T) {
	g, f := newTestGate(guessing)
	for range 5 {
		guess(t, g, f, "192.0.2.1", "app")
	}
	f.add(forgetAfter + guessing.Throttle.MaxDelay + time.Second)
	if waited, told := guess(t, g, f, "192.0.2.1", "app"); waited != 0 || told != 0 {
		t.Errorf("got a wait of %v, told %v, want it forgotten", waited, told)
	}
}

// TestIPv6IsOnePrefix guesses from as many addresses as one subscriber has.
func TestIPv6IsOnePrefix(t *testing.T) {
	g, f := newTestGate(guessing)
	for i := range 3 {
		guess(t, g, f, fmt.Sprintf("2001:db8::%x", i), "app")
	}
	if waited, _ := guess(t, g, f, "2001:db8:0:0:ffff::1", "app"); waited != time.Second {
		t.Errorf("got a wait of %v, want 1s", waited)
	}
}

// TestGuessesAtOnce begins many attempts before the first has failed.
func TestGuessesAtOnce(t *testing.T) {
	g, f := newTestGate(guessing)
	var attempts []*Attempt
	for range 100 {
		a, err := arrive(t, g, "192.0.2.1").Attempt(context.Background(), "app")
		if err != nil {
			t.Fatal(err)
		}
		attempts = append(attempts, a)
	}
	judged := 0
	for _, a := range attempts {
		if a.Check() == nil {
			judged++
			a.Failed()
		}
	}
	if judged != guessing.Throttle.Failures {
		t.Errorf("%d guesses were judged, want %d", judged, guessing.Throttle.Failures)
	}
	if len(f.waited) != 0 {
		t.Errorf("waited %v", f.waited)
	}
}

// TestWaitingIsBounded queues attempts while time stands still.
func TestWaitingIsBounded(t *testing.T) {
	g, _ := newTestGate(Limits{Throttle: Throttle{Failures: 1, Delay: time.Millisecond, MaxDelay: time.Millisecond}})
	hold := make(chan struct{})
	waiting := make(chan struct{}, 100)
	g.throttle.clock.wait = func(context.Context, time.Duration) error {
		waiting <- struct{}{}
		<-hold
		return nil
	}
	g.throttle.mu.Lock()
	g.throttle.pairs.put(pair{netip.MustParsePrefix("192.0.2.1/32"), "app"}, &record{
		failures: 5, last: g.clock.now(), next: g.clock.now().Add(time.Millisecond),
	})
	g.throttle.mu.Unlock()
	v := arrive(t, g, "192.0.2.1")
	done := make(chan error, waitingPerPair)
	for range waitingPerPair {
		go func() {
			_, err := v.Attempt(context.Background(), "app")
			done <- err
		}()
		<-waiting
	}
	var throttled *ThrottleError
	if _, err := v.Attempt(context.Background(), "app"); !errors.As(err, &throttled) {
		t.Errorf("got %v, want the fifth refused", err)
	}
	close(hold)
	for range waitingPerPair {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if g.throttle.waiting != 0 {
		t.Errorf("%d still count as waiting", g.throttle.waiting)
	}
}

// TestMemoryIsBounded comes from more addresses, with more names, than are remembered.
func TestMemoryIsBounded(t *testing.T) {
	g, f := newTestGate(Limits{HandshakesPerSecond: 1, Throttle: guessing.Throttle})
	for i := range 3 * tracked {
		addr := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}).String()
		guess(t, g, f, addr, fmt.Sprint("user", i))
		g.MayBroadcast(netip.MustParseAddr(addr))
		g.MayLog("tls", netip.MustParseAddr(addr))
	}
	for what, n := range map[string]int{
		"pairs": g.Stats().Pairs, "arrivals": len(g.arrivals.by.entries), "broadcasts": len(g.broadcasts.by.entries),
		"order": g.throttle.pairs.order.Len(), "lines": len(g.lines.prefixes.by.entries),
	} {
		if n > tracked {
			t.Errorf("%s: %d remembered, want %d at most", what, n, tracked)
		}
	}
	if n := len(g.logins.by) + len(g.late.by); n != 0 {
		t.Errorf("%d prefixes of nobody are remembered", n)
	}
}
