package policy_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

// everyCondition yields a server in every condition that decides whether it may take a session.
func everyCondition(name string) []policy.Backend {
	var list []policy.Backend
	for _, role := range everyRole {
		for _, weight := range []int{0, 1} {
			for bits := range 8 {
				b := policy.Backend{Name: name, Role: role, Weight: weight, Draining: bits&1 > 0, Lagging: bits&2 > 0}
				if bits&4 > 0 {
					b.Replayed = 100
				}
				list = append(list, b)
			}
		}
	}
	return list
}

// Two servers in every condition, for every target and fallback, with and without a position to read at.
func TestPlaceEveryMix(t *testing.T) {
	for _, a := range everyCondition("a") {
		for _, b := range everyCondition("b") {
			for _, target := range everyTarget {
				for _, fallback := range everyFallback {
					for _, replayed := range []uint64{0, 100} {
						checkPlace(t, []policy.Backend{a, b}, target, fallback, replayed)
					}
				}
			}
		}
	}
}

// checkPlace compares a decision with the rules in other words than the code's.
func checkPlace(t *testing.T, servers []policy.Backend, target policy.Target, fallback policy.Fallback, replayed uint64) {
	t.Helper()
	rules := policy.Rules{Routes: []policy.Route{{Cluster: "main", Target: target, Fallback: fallback}}}
	d := rules.Decide(policy.Request{Database: "app", Replayed: replayed}, policy.View{"main": servers}, always(0.5))

	var primaries, fit, behind, lagging []string
	for _, s := range servers {
		switch {
		case s.Weight == 0 || s.Draining || s.Role == policy.Unknown: // out of the game
		case s.Role == policy.Primary:
			primaries = append(primaries, s.Name)
		case s.Lagging:
			lagging = append(lagging, s.Name)
		case s.Replayed < replayed:
			behind = append(behind, s.Name)
		default:
			fit = append(fit, s.Name)
		}
	}
	noReplica := len(fit)+len(behind)+len(lagging) == 0
	allLag := len(fit)+len(behind) == 0
	verdict, want := policy.Serve, fit
	switch {
	case target == policy.TargetPrimary:
		want = primaries
	case target == policy.TargetAny:
		want = slices.Concat(primaries, fit)
	case len(fit) > 0:
	case fallback == policy.FallbackNoReplica && noReplica, fallback == policy.FallbackLagging && allLag:
		want = primaries
	case fallback == policy.FallbackLagging:
		verdict, want = policy.Wait, primaries // when the wait is over
	}
	if len(want) == 0 {
		verdict = policy.Wait
	}
	slices.Sort(want)
	if got := slices.Sorted(slices.Values(d.Backends)); d.Verdict != verdict || !slices.Equal(got, want) || (d.Reason == "") != (verdict == policy.Serve) {
		t.Fatalf("%v, fallback %v, position %d, of %+v: got %+v, want verdict %v with %v", target, fallback, replayed, servers, d, verdict, want)
	}
}

// place is a decision between replicas.
func place(zone string, servers []policy.Backend, roll func() float64) []string {
	rules := policy.Rules{Routes: policy.DefaultRoutes("main"), Zone: zone}
	return rules.Decide(policy.Request{Database: "app_replica"}, policy.View{"main": servers}, roll).Backends
}

func TestOrder(t *testing.T) {
	replica := func(name string, adjust func(*policy.Backend)) policy.Backend {
		b := policy.Backend{Name: name, Role: policy.Replica, Weight: 1}
		adjust(&b)
		return b
	}
	load := func(n int) func(*policy.Backend) { return func(b *policy.Backend) { b.Load = n } }
	for _, test := range []struct {
		name    string
		zone    string
		servers []policy.Backend
		want    []string
	}{
		{"fewest sessions", "", []policy.Backend{replica("a", load(7)), replica("b", load(3)), replica("c", load(5))}, []string{"b", "c", "a"}},
		{"by weight", "", []policy.Backend{
			replica("a", func(b *policy.Backend) { b.Load, b.Weight = 7, 1 }),
			replica("b", func(b *policy.Backend) { b.Load, b.Weight = 20, 3 }),
		}, []string{"b", "a"}},
		{"the heavier of two empty ones", "", []policy.Backend{
			replica("a", func(b *policy.Backend) { b.Weight = 1 }), replica("b", func(b *policy.Backend) { b.Weight = 2 }),
		}, []string{"b", "a"}},
		{"own zone, however busy", "x", []policy.Backend{
			replica("a", load(0)), replica("b", func(b *policy.Backend) { b.Load, b.Zone = 99, "x" }),
			replica("c", func(b *policy.Backend) { b.Load, b.Zone = 1, "y" }),
		}, []string{"b", "a", "c"}},
		{"zones that the proxy has no part in", "", []policy.Backend{
			replica("a", load(1)), replica("b", func(b *policy.Backend) { b.Zone = "x" }),
		}, []string{"b", "a"}},
		{"own zone lags", "x", []policy.Backend{
			replica("a", load(9)), replica("b", func(b *policy.Backend) { b.Lagging, b.Zone = true, "x" }),
		}, []string{"a"}},
		{"one that failed is the last, even of its zone", "x", []policy.Backend{
			replica("a", func(b *policy.Backend) { b.Ejected, b.Zone = true, "x" }), replica("b", load(50)),
		}, []string{"b", "a"}},
		{"all have failed", "", []policy.Backend{
			replica("a", func(b *policy.Backend) { b.Ejected, b.Load = true, 2 }),
			replica("b", func(b *policy.Backend) { b.Ejected, b.Load = true, 1 }),
		}, []string{"b", "a"}},
		{"half warm takes half", "", []policy.Backend{
			replica("a", load(9)), replica("b", func(b *policy.Backend) { b.Load, b.Cold = 5, 0.5 }),
		}, []string{"a", "b"}},
		{"cold takes nearly nothing, but not nothing", "", []policy.Backend{
			replica("a", load(150)), replica("b", func(b *policy.Backend) { b.Cold = 1 }),
		}, []string{"b", "a"}},
	} {
		if got := place(test.zone, test.servers, always(0.5)); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// Session by session, whatever the weights, each server comes to its share of the sessions, to one session.
func TestSharesOfSessions(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		servers := make([]policy.Backend, 1+chance.IntN(6))
		total := 0
		for i := range servers {
			servers[i] = policy.Backend{Name: fmt.Sprint(i), Role: policy.Replica, Weight: 1 + chance.IntN(9), Replayed: 1}
			total += servers[i].Weight
		}
		sessions := 20 * total
		for range sessions {
			first := place("", servers, chance.Float64)[0]
			for i := range servers {
				if servers[i].Name == first {
					servers[i].Load++
				}
			}
		}
		for _, s := range servers {
			if want := 20 * s.Weight; s.Load != want {
				t.Errorf("%d sessions, of which %d are to be on one of weight %d of %d: it has %d", sessions, want, s.Weight, total, s.Load)
			}
		}
	}
}

// Between equals chance decides: each is the first for its part of the rolls.
func TestTies(t *testing.T) {
	servers := []policy.Backend{{Name: "a", Role: policy.Replica, Weight: 1}, {Name: "b", Role: policy.Replica, Weight: 1}}
	for _, test := range []struct {
		rolls []float64
		want  string
	}{
		{[]float64{0, math.Nextafter(1, 0)}, "a"},
		{[]float64{0.7, 0.2}, "b"},
	} {
		rolls := test.rolls
		got := place("", servers, func() float64 {
			roll := rolls[0]
			rolls = rolls[1:]
			return roll
		})
		if got[0] != test.want || len(rolls) > 0 {
			t.Errorf("rolls %v: got %v, %d rolls left", test.rolls, got, len(rolls))
		}
	}
}

func TestWaitReasons(t *testing.T) {
	d := policy.Rules{Routes: policy.DefaultRoutes("main")}.Decide(
		policy.Request{Database: "app_replica", Replayed: 0x16_b374d848},
		policy.View{"main": {
			{Name: "db1", Role: policy.Primary, Weight: 1},
			{Name: "db2", Role: policy.Replica, Weight: 1, Lagging: true},
			{Name: "db3", Role: policy.Replica, Weight: 1, Replayed: 0x16_b374d000},
			{Name: "db4", Role: policy.Replica, Weight: 1, Draining: true},
			{Name: "db5", Role: policy.Replica},
		}}, always(0))
	want := `no replica of cluster "main" can take the session now: db1 is primary, db2 is replica (lagging), ` +
		`db3 is replica (has replayed 16/B374D000 of 16/B374D848), db4 is replica (taken out of service), db5 is replica (with weight 0)`
	if d.Reason != want {
		t.Errorf("got %s\nwant %s", d.Reason, want)
	}
}

func TestLSN(t *testing.T) {
	for text, want := range map[string]uint64{
		"0/0": 0, "16/B374D848": 0x16b374d848, "16/b374d848": 0x16b374d848, "FFFFFFFF/FFFFFFFF": math.MaxUint64, "1/00000001": 0x100000001,
	} {
		if got, err := policy.ParseLSN(text); err != nil || got != want {
			t.Errorf("ParseLSN(%q) = %x, %v, want %x", text, got, err, want)
		}
		if got, err := policy.ParseLSN(policy.FormatLSN(want)); err != nil || got != want {
			t.Errorf("%q read back is %x, %v, want %x", policy.FormatLSN(want), got, err, want)
		}
	}
	for _, text := range []string{
		"", "/", "0", "0/", "/0", "0/0/0", "0/000000001", "g/0", "+1/0", "-1/0", "0x1/0", " 0/0", "0/0 ", "1_0/0",
	} {
		if got, err := policy.ParseLSN(text); err == nil {
			t.Errorf("ParseLSN(%q) = %x", text, got)
		}
	}
}
