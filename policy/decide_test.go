package policy_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/replicon/pgreplicaproxy/policy"
)

func ExampleRules_Decide() {
	rules := policy.Rules{Routes: policy.DefaultRoutes("main")}
	view := policy.View{"main": {
		{Name: "db1", Role: policy.Primary, Weight: 1},
		{Name: "db2", Role: policy.Replica, Weight: 1},
		{Name: "db3", Role: policy.Replica, Weight: 3},
	}}
	roll := func() float64 { return 0.5 } // in earnest math/rand/v2's Float64

	for _, database := range []string{"app", "app_replica"} {
		d := rules.Decide(policy.Request{Database: database, User: "bob"}, view, roll)
		fmt.Printf("%s: database %s on %v\n", database, d.Database, d.Backends)
	}
	view["main"][0] = policy.Backend{Name: "db1", Role: policy.Unknown, Weight: 1, Detail: "no answer since 12:00:03"}
	fmt.Println(rules.Decide(policy.Request{Database: "app", User: "bob"}, view, roll).Reason)
	// Output:
	// app: database app on [db1]
	// app_replica: database app on [db3 db2]
	// no primary of cluster "main" can take the session now: db1 is unknown (no answer since 12:00:03), db2 is replica, db3 is replica
}

// Every mix of roles and weights for three servers, for every target and fallback.
func TestDecideEveryMix(t *testing.T) {
	weights := []int{-1, 0, 1, 5}
	for backends := range everyMix(weights) {
		for _, target := range everyTarget {
			for _, fallback := range everyFallback {
				rules := policy.Rules{Routes: []policy.Route{{Cluster: "main", Target: target, Fallback: fallback}}}
				for _, chance := range []float64{0, 0.4, math.Nextafter(1, 0)} {
					checkMix(t, rules, backends, chance)
				}
			}
		}
	}
}

// everyMix yields three servers with every mix of roles and weights.
func everyMix(weights []int) func(yield func([]policy.Backend) bool) {
	var kinds []policy.Backend
	for _, role := range everyRole {
		for _, weight := range weights {
			kinds = append(kinds, policy.Backend{Role: role, Weight: weight})
		}
	}
	return func(yield func([]policy.Backend) bool) {
		for _, a := range kinds {
			for _, b := range kinds {
				for _, c := range kinds {
					a.Name, b.Name, c.Name = "a", "b", "c"
					if !yield([]policy.Backend{a, b, c}) {
						return
					}
				}
			}
		}
	}
}

func checkMix(t *testing.T, rules policy.Rules, backends []policy.Backend, chance float64) {
	t.Helper()
	route := rules.Routes[0]
	rolls := 0
	d := rules.Decide(policy.Request{Database: "app"}, policy.View{"main": backends}, func() float64 {
		rolls++
		return chance
	})

	// The rule in other words than the code's: servers of a role that take sessions, and which roles are asked.
	able := map[policy.Role][]string{}
	for _, b := range backends {
		if b.Weight > 0 {
			able[b.Role] = append(able[b.Role], b.Name)
		}
	}
	var want []string
	switch route.Target {
	case policy.TargetPrimary:
		want = able[policy.Primary]
	case policy.TargetReplica:
		want = able[policy.Replica]
		if len(want) == 0 && route.Fallback != policy.FallbackNever {
			want = able[policy.Primary]
		}
	case policy.TargetAny:
		want = slices.Concat(able[policy.Primary], able[policy.Replica])
	}
	slices.Sort(want)

	describe := func() string { return fmt.Sprintf("%+v of %+v with roll %v: %+v", route, backends, chance, d) }
	if got := slices.Sorted(slices.Values(d.Backends)); !slices.Equal(got, want) {
		t.Fatalf("%s: backends %q, want %q", describe(), got, want)
	}
	if rolls != len(want) {
		t.Fatalf("%s: %d rolls for %d candidates", describe(), rolls, len(want))
	}
	if d.Cluster != "main" || d.Route != 0 || d.Target != route.Target || d.Fallback != route.Fallback || d.Database != "app" {
		t.Fatalf("%s: not the route's", describe())
	}
	wantVerdict := policy.Serve
	if len(want) == 0 {
		wantVerdict = policy.Wait
	}
	if d.Verdict != wantVerdict || (d.Reason == "") != (wantVerdict == policy.Serve) {
		t.Fatalf("%s: verdict and reason do not fit", describe())
	}
}

func TestDecideReasons(t *testing.T) {
	view := policy.View{"main": {
		{Name: "db1", Role: policy.Unknown, Weight: 1, Detail: "refused connections since 12:00:03"},
		{Name: "db2", Role: policy.Unknown, Weight: 1},
		{Name: "db3", Role: policy.Primary, Detail: "draining"},
	}}
	byDefault := policy.DefaultRoutes("main")
	for _, test := range []struct {
		name    string
		routes  []policy.Route
		request policy.Request
		verdict policy.Verdict
		named   []string
	}{
		{
			"no route", nil,
			policy.Request{Database: "app", User: "bob"},
			policy.Refuse,
			[]string{`database "app"`, `user "bob"`},
		},
		{
			"no route for replication", byDefault,
			policy.Request{Database: "app", User: "rep", Replication: true},
			policy.Refuse,
			[]string{"replication", `database "app"`, `user "rep"`},
		},
		{
			"no primary", byDefault,
			policy.Request{Database: "app"},
			policy.Wait,
			[]string{"primary", `cluster "main"`, "db1 is unknown (refused connections since 12:00:03)", "db2 is unknown", "db3 is primary (draining)"},
		},
		{
			"no replica", byDefault,
			policy.Request{Database: "app_replica"},
			policy.Wait,
			[]string{"no replica", `cluster "main"`, "db1", "db2", "db3"},
		},
		{
			"no server",
			[]policy.Route{{Cluster: "main", Target: policy.TargetAny}},
			policy.Request{Database: "app"},
			policy.Wait,
			[]string{"no server", `cluster "main"`, "db1", "db2", "db3"},
		},
		{
			"cluster that nobody knows", policy.DefaultRoutes("other"),
			policy.Request{Database: "app"},
			policy.Wait,
			[]string{"no primary", `cluster "other"`},
		},
		{
			"a name with control characters", nil,
			policy.Request{Database: "a\nb\x00\xff", User: "\x1b[2J"},
			policy.Refuse,
			[]string{`"a\nb\x00\xff"`, `"\x1b[2J"`},
		},
	} {
		d := policy.Rules{Routes: test.routes}.Decide(test.request, view, always(0))
		if d.Verdict != test.verdict || (d.Route == -1) != (test.verdict == policy.Refuse) || len(d.Backends) != 0 {
			t.Errorf("%s: got %+v, want verdict %v", test.name, d, test.verdict)
		}
		wantNamed(t, d.Reason, test.named...)
	}
}

// A view and the rules are shared by all sessions: a decision must leave them alone.
func TestDecideOnlyReads(t *testing.T) {
	newView := func() policy.View {
		return policy.View{"main": {
			{Name: "a", Role: policy.Replica, Weight: 1},
			{Name: "b", Role: policy.Primary, Weight: 2},
			{Name: "c", Role: policy.Replica, Weight: 3},
		}}
	}
	newRules := func() policy.Rules {
		return policy.Rules{Routes: []policy.Route{{Cluster: "main", Target: policy.TargetAny}}}
	}
	view, rules := newView(), newRules()
	for _, chance := range []float64{0, 0.3, 0.6, 0.9} {
		rules.Decide(policy.Request{Database: "app"}, view, always(chance))
	}
	if diff := cmp.Diff(newView(), view); diff != "" {
		t.Errorf("view was changed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(newRules(), rules); diff != "" {
		t.Errorf("rules were changed (-want +got):\n%s", diff)
	}
}
