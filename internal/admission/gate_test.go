package admission

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// fakeTime is a clock that waiting moves on.
type fakeTime struct {
	mu     sync.Mutex
	t      time.Time
	waited []time.Duration
}

func (f *fakeTime) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.t
}

func (f *fakeTime) add(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.t = f.t.Add(d)
}

func (f *fakeTime) wait(_ context.Context, d time.Duration) error {
	f.add(d)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waited = append(f.waited, d)
	return nil
}

func newTestGate(l Limits) (*Gate, *fakeTime) {
	f := &fakeTime{t: time.Unix(1_800_000_000, 0)}
	return newGate(l, clock{f.now, f.wait}), f
}

func arrive(t *testing.T, g *Gate, addr string) *Visit {
	t.Helper()
	a := netip.Addr{}
	if addr != "" {
		a = netip.MustParseAddr(addr)
	}
	v, err := g.Arrive(context.Background(), a)
	if err != nil {
		t.Fatalf("arrive from %s: %v", addr, err)
	}
	return v
}

// enter logs a visitor in, and returns the limit that was met, empty for none.
func enter(t *testing.T, g *Gate, addr, user, database string) string {
	t.Helper()
	v := arrive(t, g, addr)
	checked, err := v.Check(user, database), v.Enter(user, database)
	if limitOf(t, checked) != limitOf(t, err) {
		t.Errorf("Check says %v, Enter %v", checked, err)
	}
	if err != nil {
		v.Leave()
	}
	return limitOf(t, err)
}

func limitOf(t *testing.T, err error) string {
	t.Helper()
	var limit *LimitError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &limit):
		return limit.Limit
	default:
		t.Fatalf("got %v, want a *LimitError", err)
		return ""
	}
}

func TestLogins(t *testing.T) {
	for _, test := range []struct {
		name    string
		limits  Limits
		holding []string // logins that are there
		addr    string
		late    string
	}{
		{"room", Limits{Logins: 2}, []string{"192.0.2.1"}, "192.0.2.2", ""},
		{"full", Limits{Logins: 2}, []string{"192.0.2.1", "198.51.100.1"}, "203.0.113.1", "logins"},
		{"prefix full", Limits{LoginsPerPrefix: 2}, []string{"192.0.2.1", "192.0.2.2"}, "192.0.2.3", "logins_per_prefix"},
		{"another prefix", Limits{LoginsPerPrefix: 2}, []string{"192.0.2.1", "192.0.2.2"}, "192.0.3.3", ""},
		{"IPv6 by 64", Limits{LoginsPerPrefix: 1}, []string{"2001:db8::1"}, "2001:db8:0:0:ffff::1", "logins_per_prefix"},
		{"another 64", Limits{LoginsPerPrefix: 1}, []string{"2001:db8::1"}, "2001:db8:0:1::1", ""},
		{"other lengths", Limits{LoginsPerPrefix: 1, PrefixIPv4: 32, PrefixIPv6: 48}, []string{"192.0.2.1"}, "192.0.2.2", ""},
		{"other length, IPv6", Limits{LoginsPerPrefix: 1, PrefixIPv6: 48}, []string{"2001:db8:0:1::"}, "2001:db8:0:2::", "logins_per_prefix"},
		{"unix sockets have no prefix", Limits{LoginsPerPrefix: 1}, []string{""}, "", ""},
		{
			"reserved network",
			Limits{Logins: 1, Reserved: Reserved{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
			[]string{"192.0.2.1"},
			"10.1.2.3", "",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, _ := newTestGate(test.limits)
			var held []*Visit
			for _, addr := range test.holding {
				held = append(held, arrive(t, g, addr))
			}
			v := arrive(t, g, test.addr)
			if got := limitOf(t, v.Late()); got != test.late {
				t.Errorf("got late because of %q, want %q", got, test.late)
			}
			if got := limitOf(t, v.Check("app", "app")); got != test.late {
				t.Errorf("got checked out because of %q, want %q", got, test.late)
			}
			v.Leave()
			for _, v := range held {
				v.Leave()
				v.Leave()
			}
			if s := g.Stats(); s.Logins != 0 || s.Late != 0 || len(g.logins.by) != 0 {
				t.Errorf("left behind: %+v, %v", s, g.logins.by)
			}
		})
	}
}

// TestLateVisitsAreFew closes without a word what comes when even the places for late visits are taken.
func TestLateVisitsAreFew(t *testing.T) {
	g, _ := newTestGate(Limits{Logins: 1})
	arrive(t, g, "192.0.2.1")
	var held []*Visit
	for i := range lateVisits {
		held = append(held, arrive(t, g, fmt.Sprintf("10.0.%d.1", i)))
	}
	if _, err := g.Arrive(context.Background(), netip.MustParseAddr("10.1.0.1")); !errors.Is(err, ErrFlood) {
		t.Errorf("got %v, want %v", err, ErrFlood)
	}
	held[0].Leave()
	arrive(t, g, "10.1.0.1").Leave()
	for range lateVisitsPerPrefix { // one prefix has only its share of them
		held[1].Leave()
		held = append(held[1:], nil)
	}
	for range lateVisitsPerPrefix {
		arrive(t, g, "10.2.0.1")
	}
	if _, err := g.Arrive(context.Background(), netip.MustParseAddr("10.2.0.1")); !errors.Is(err, ErrFlood) {
		t.Errorf("one prefix: got %v, want %v", err, ErrFlood)
	}
	if got := g.Stats().Flooded; got != 2 {
		t.Errorf("got %d counted, want 2", got)
	}
}

func TestSessions(t *testing.T) {
	reserved := Reserved{Places: 1, Users: []string{"admin"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, test := range []struct {
		name   string
		limits Limits
		in     [][3]string // address, user and database of the sessions that are there
		next   [3]string
		want   string
	}{
		{"room", Limits{Connections: 2}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.2.1", "a", "d"}, ""},
		{"full", Limits{Connections: 1}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.3.1", "b", "e"}, "connections"},
		{"address", Limits{PerAddress: 1}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.2.1", "b", "e"}, "connections_per_address"},
		{"other address", Limits{PerAddress: 1}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.2.2", "a", "d"}, ""},
		{"prefix", Limits{PerPrefix: 1}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.2.2", "b", "e"}, "connections_per_prefix"},
		{"unix", Limits{PerAddress: 1, PerPrefix: 1}, [][3]string{{"", "a", "d"}}, [3]string{"", "a", "d"}, ""},
		{"user", Limits{PerUser: 1}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.3.1", "a", "e"}, "connections_per_user"},
		{"database", Limits{PerDatabase: 1}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.3.1", "b", "d"}, "connections_per_database"},
		{"reserved places", Limits{Connections: 2, Reserved: reserved}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.2.1", "a", "d"}, "connections"},
		{"reserved user", Limits{Connections: 2, Reserved: reserved}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"192.0.2.1", "admin", "d"}, ""},
		{"reserved network", Limits{Connections: 2, Reserved: reserved}, [][3]string{{"192.0.2.1", "a", "d"}}, [3]string{"10.0.2.1", "a", "d"}, ""},
		{
			"reserved places taken",
			Limits{Connections: 2, Reserved: reserved},
			[][3]string{{"192.0.2.1", "admin", "d"}, {"10.0.0.1", "b", "d"}},
			[3]string{"10.0.0.1", "admin", "d"},
			"connections",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g, _ := newTestGate(test.limits)
			for _, in := range test.in {
				if got := enter(t, g, in[0], in[1], in[2]); got != "" {
					t.Fatalf("%v: refused by %s", in, got)
				}
			}
			if got := enter(t, g, test.next[0], test.next[1], test.next[2]); got != test.want {
				t.Errorf("got refused by %q, want %q", got, test.want)
			}
		})
	}
}

// TestStrangersTakeNoPlace claims to be somebody without ever logging in: no limit of sessions notices.
func TestStrangersTakeNoPlace(t *testing.T) {
	g, _ := newTestGate(Limits{Connections: 1, PerUser: 1, PerDatabase: 1, PerAddress: 1, PerPrefix: 1})
	for range 100 {
		if err := arrive(t, g, "192.0.2.1").Check("app", "app"); err != nil {
			t.Fatal(err)
		}
	}
	if got := enter(t, g, "192.0.2.1", "app", "app"); got != "" {
		t.Errorf("refused by %s", got)
	}
}

// TestLeaveFreesEverything lets many in and out, in another order.
func TestLeaveFreesEverything(t *testing.T) {
	g, _ := newTestGate(Limits{})
	var visits []*Visit
	for i := range 300 {
		v := arrive(t, g, fmt.Sprintf("10.0.%d.%d", i%7, i%11))
		if i%3 > 0 {
			if err := v.Enter(fmt.Sprint("user", i%5), fmt.Sprint("db", i%2)); err != nil {
				t.Fatal(err)
			}
			v.Sit(fmt.Sprint("server", i%4), 1000)
		}
		visits = append(visits, v)
	}
	if s := g.Stats(); s.Logins != 100 || s.Sessions != 200 {
		t.Errorf("got %+v, want 100 logins and 200 sessions", s)
	}
	for i := range visits {
		visits[(i*7)%len(visits)].Leave()
	}
	if s := g.Stats(); s.Logins != 0 || s.Sessions != 0 {
		t.Errorf("got %+v, want none left", s)
	}
	if n := len(g.logins.by) + len(g.address.by) + len(g.prefix.by) + len(g.user.by) + len(g.database.by) + len(g.servers.by); n != 0 {
		t.Errorf("%d keys left behind", n)
	}
}

func TestServerPlaces(t *testing.T) {
	g, _ := newTestGate(Limits{})
	a, b := arrive(t, g, "192.0.2.1"), arrive(t, g, "192.0.2.1")
	if !a.Free("main/db1", 1) || !a.Sit("main/db1", 1) || b.Free("main/db1", 1) || b.Sit("main/db1", 1) || !b.Sit("main/db2", 1) {
		t.Error("one place was given twice, or one that was free not at all")
	}
	b.Rise()
	a.Rise()
	if !b.Sit("main/db1", 1) {
		t.Error("a place that was given back is not free")
	}
	b.Leave()
	if !a.Sit("main/db1", 1) {
		t.Error("the place of one who left is not free")
	}
	if !b.Sit("main/db1", 0) {
		t.Error("no limit refused")
	}
}

func TestHandshakesPerSecond(t *testing.T) {
	g, f := newTestGate(Limits{
		HandshakesPerSecond: 10, Reserved: Reserved{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	})
	for range 20 { // the burst
		arrive(t, g, "192.0.2.1")
	}
	if len(f.waited) != 0 {
		t.Fatalf("the burst waited %v", f.waited)
	}
	arrive(t, g, "192.0.2.77")
	if len(f.waited) != 1 || f.waited[0] != 100*time.Millisecond {
		t.Errorf("got waits %v, want one of 100ms", f.waited)
	}
	f.waited = nil
	for range 50 {
		arrive(t, g, "198.51.100.1").Leave()
		arrive(t, g, "10.0.0.1").Leave()
		f.add(time.Second)
	}
	if len(f.waited) != 0 {
		t.Errorf("others waited %v", f.waited)
	}
	// Without time passing, the line is as long as the patience and no longer.
	g.clock.wait = func(context.Context, time.Duration) error { return nil }
	n := 0
	for ; n < 1000; n++ {
		if _, err := g.Arrive(context.Background(), netip.MustParseAddr("203.0.113.1")); err != nil {
			break
		}
	}
	if n != 20+50 {
		t.Errorf("%d came in before the flood was cut, want 70", n)
	}
	if got := g.Stats().Logins; got != 20+1+n {
		t.Errorf("got %d logins, want %d: a connection that was cut holds a place", got, 21+n)
	}
}

func TestSetLimits(t *testing.T) {
	g, _ := newTestGate(Limits{PerUser: 1})
	if got := enter(t, g, "192.0.2.1", "app", "app"); got != "" {
		t.Fatal(got)
	}
	if got := enter(t, g, "192.0.2.1", "app", "app"); got != "connections_per_user" {
		t.Errorf("got %q, want connections_per_user", got)
	}
	g.SetLimits(Limits{PerUser: 2})
	if got := enter(t, g, "192.0.2.1", "app", "app"); got != "" {
		t.Errorf("after the change: refused by %s", got)
	}
}

func TestTurns(t *testing.T) {
	g, _ := newTestGate(Limits{Handshakes: 1})
	done, err := g.Turn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	if _, err := g.Turn(ended); err == nil {
		t.Error("two at a time")
	}
	done()
	done()
	if done, err = g.Turn(context.Background()); err != nil {
		t.Error(err)
	}
	done()
}

func TestBroadcasts(t *testing.T) {
	g, f := newTestGate(Limits{})
	for i, want := range []bool{true, true, true, true, true, false} {
		if got := g.MayBroadcast(netip.MustParseAddr("192.0.2.1")); got != want {
			t.Errorf("request %d: got %v, want %v", i, got, want)
		}
	}
	for range 1000 { // which leaves the others theirs
		g.MayBroadcast(netip.MustParseAddr("192.0.2.1"))
	}
	allowed := 0
	for i := range 1000 {
		if g.MayBroadcast(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})) {
			allowed++
		}
	}
	if want := broadcastsInAllBurst - broadcastsPerPrefixBurst; allowed != want {
		t.Errorf("%d of 1000 other strangers reached the servers at once, want %d", allowed, want)
	}
	f.add(time.Second)
	if !g.MayBroadcast(netip.MustParseAddr("192.0.2.1")) {
		t.Error("a second later still none")
	}
}

// TestNoGate lets everybody in.
func TestNoGate(t *testing.T) {
	var g *Gate
	v, err := g.Arrive(context.Background(), netip.Addr{})
	if v != nil || err != nil || v.Late() != nil || v.Check("u", "d") != nil || v.Enter("u", "d") != nil || !v.Sit("s", 1) {
		t.Error("a gate that is none refuses")
	}
	a, err := v.Attempt(context.Background(), "u")
	if err != nil || a.Check() != nil {
		t.Error("a gate that is none throttles")
	}
	a.Failed()
	a.Succeeded()
	v.Rise()
	v.Leave()
	done, err := g.Turn(context.Background())
	if err != nil || !g.MayBroadcast(netip.Addr{}) || !g.MayLog("tls", netip.Addr{}) || g.Unlogged() != nil {
		t.Error("a gate that is none refuses")
	}
	done()
}
