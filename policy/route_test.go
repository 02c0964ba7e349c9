package policy_test

import (
	"slices"
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

// serving is a view in which every cluster that a test names has one server of each role.
func serving(clusters ...string) policy.View {
	v := policy.View{}
	for _, cluster := range clusters {
		v[cluster] = []policy.Backend{
			{Name: cluster + "-p", Role: policy.Primary, Weight: 1},
			{Name: cluster + "-r", Role: policy.Replica, Weight: 1},
		}
	}
	return v
}

// always is a roll that never varies.
func always(n float64) func() float64 { return func() float64 { return n } }

func TestDefaultRoutes(t *testing.T) {
	rules := policy.Rules{Routes: policy.DefaultRoutes("main")}
	for _, test := range []struct {
		database, want string // want: the database that the server sees
		route          int
		backend        string
	}{
		{"app", "app", 1, "main-p"},
		{"app_replica", "app", 0, "main-r"},
		{"app_replica_replica", "app_replica", 0, "main-r"},
		{"_replica", "_replica", 1, "main-p"}, // nothing before the suffix: a name like any other
		{"replica", "replica", 1, "main-p"},
		{"_replica_replica", "_replica", 0, "main-r"},
		{"app_Replica", "app_Replica", 1, "main-p"},
		{"app_replica ", "app_replica ", 1, "main-p"},
		{"app_replica_", "app_replica_", 1, "main-p"},
		{"my_replica_app", "my_replica_app", 1, "main-p"},
		{"ä_replica", "ä", 0, "main-r"},
		{"\xff_replica", "\xff", 0, "main-r"}, // names are bytes
	} {
		d := rules.Decide(policy.Request{Database: test.database, User: "bob_replica"}, serving("main"), always(0))
		if d.Verdict != policy.Serve || d.Route != test.route || d.Database != test.want ||
			!slices.Equal(d.Backends, []string{test.backend}) {
			t.Errorf("%q: got verdict %v, route %d, database %q, backends %q, want route %d, database %q, backend %q",
				test.database, d.Verdict, d.Route, d.Database, d.Backends, test.route, test.want, test.backend)
		}
	}
}

// criteria are routes of one criterion each, and what they take of some requests.
func TestRouteCriteria(t *testing.T) {
	type request = policy.Request
	for _, test := range []struct {
		name     string
		route    policy.Route
		request  request
		want     bool
		database string // when it is not the request's
	}{
		{"empty", policy.Route{}, request{Database: "app"}, true, ""},
		{"database", policy.Route{Database: "app"}, request{Database: "app"}, true, ""},
		{"database, other", policy.Route{Database: "app"}, request{Database: "apps"}, false, ""},
		{"database, case", policy.Route{Database: "app"}, request{Database: "App"}, false, ""},
		{"database is no pattern", policy.Route{Database: "a*"}, request{Database: "app"}, false, ""},
		{"pattern *", policy.Route{DatabasePattern: "app_*"}, request{Database: "app_eu"}, true, ""},
		{"pattern *, nothing", policy.Route{DatabasePattern: "app_*"}, request{Database: "app_"}, true, ""},
		{"pattern is anchored", policy.Route{DatabasePattern: "app_*"}, request{Database: "my_app_eu"}, false, ""},
		{"pattern ?", policy.Route{DatabasePattern: "app?"}, request{Database: "app1"}, true, ""},
		{"pattern ?, two", policy.Route{DatabasePattern: "app?"}, request{Database: "app12"}, false, ""},
		{"pattern class", policy.Route{DatabasePattern: "app[0-9]"}, request{Database: "app7"}, true, ""},
		{"pattern class, other", policy.Route{DatabasePattern: "app[0-9]"}, request{Database: "appx"}, false, ""},
		{"pattern keeps the name", policy.Route{DatabasePattern: "*_replica"}, request{Database: "app_replica"}, true, ""},
		{"broken pattern", policy.Route{DatabasePattern: "app["}, request{Database: "app["}, false, ""},
		{"suffix", policy.Route{DatabaseSuffix: "_ro"}, request{Database: "app_ro"}, true, "app"},
		{"suffix once", policy.Route{DatabaseSuffix: "_ro"}, request{Database: "app_ro_ro"}, true, "app_ro"},
		{"suffix alone", policy.Route{DatabaseSuffix: "_ro"}, request{Database: "_ro"}, false, ""},
		{"suffix, other", policy.Route{DatabaseSuffix: "_ro"}, request{Database: "app_rw"}, false, ""},
		{"user", policy.Route{User: "bob"}, request{Database: "app", User: "bob"}, true, ""},
		{"user, other", policy.Route{User: "bob"}, request{Database: "bob", User: "Bob"}, false, ""},
		{"sni", policy.Route{ServerName: "db.example.com"}, request{Database: "app", ServerName: "DB.Example.com"}, true, ""},
		{"sni, other", policy.Route{ServerName: "db.example.com"}, request{Database: "app", ServerName: "example.com"}, false, ""},
		{"sni, none sent", policy.Route{ServerName: "db.example.com"}, request{Database: "app"}, false, ""},
		{"all of them", policy.Route{DatabaseSuffix: "_ro", User: "bob", ServerName: "db"}, request{Database: "app_ro", User: "bob", ServerName: "db"}, true, "app"},
		{"all but the user", policy.Route{DatabaseSuffix: "_ro", User: "bob", ServerName: "db"}, request{Database: "app_ro", User: "eve", ServerName: "db"}, false, ""},
		{"all but the sni", policy.Route{DatabaseSuffix: "_ro", User: "bob", ServerName: "db"}, request{Database: "app_ro", User: "bob"}, false, ""},
		{"replication, not allowed", policy.Route{}, request{Database: "app", Replication: true}, false, ""},
		{"replication, allowed", policy.Route{Replication: true}, request{Database: "app", Replication: true}, true, ""},
		{"replication route, plain session", policy.Route{Replication: true}, request{Database: "app"}, false, ""},
		{"replication route by name, plain session", policy.Route{Database: "app", Replication: true}, request{Database: "app"}, false, ""},
		{"replication, suffix", policy.Route{DatabaseSuffix: "_ro", Replication: true}, request{Database: "app_ro", Replication: true}, true, "app"},
	} {
		test.route.Cluster = "main"
		rules := policy.Rules{Routes: []policy.Route{test.route}}
		d := rules.Decide(test.request, serving("main"), always(0))
		if got := d.Verdict == policy.Serve; got != test.want {
			t.Errorf("%s: served %v, want %v", test.name, got, test.want)
			continue
		}
		want := test.database
		if want == "" && test.want {
			want = test.request.Database
		}
		if d.Database != want {
			t.Errorf("%s: database %q, want %q", test.name, d.Database, want)
		}
	}
}

// Routes that name their database come first and then the order of the file decides, however the file is ordered.
func TestRouteOrder(t *testing.T) {
	exact := policy.Route{Database: "app_replica", Cluster: "exact"}
	suffix := policy.Route{DatabaseSuffix: "_replica", Cluster: "suffix", Target: policy.TargetReplica}
	pattern := policy.Route{DatabasePattern: "app_*", Cluster: "pattern"}
	rest := policy.Route{Cluster: "rest"}
	view := serving("exact", "suffix", "pattern", "rest")
	for order := range permutations([]policy.Route{exact, suffix, pattern, rest}) {
		rules := policy.Rules{Routes: order}
		for _, test := range []struct {
			database string
			matching []string // clusters of the routes that match without naming the database
		}{
			{"app_replica", nil},
			{"app_replica_replica", []string{"suffix", "pattern", "rest"}},
			{"hr_replica", []string{"suffix", "rest"}},
			{"app_x", []string{"pattern", "rest"}},
			{"hr", []string{"rest"}},
		} {
			want := "exact"
			if test.matching != nil {
				want = order[slices.IndexFunc(order, func(r policy.Route) bool {
					return slices.Contains(test.matching, r.Cluster)
				})].Cluster
			}
			d := rules.Decide(policy.Request{Database: test.database}, view, always(0))
			if d.Cluster != want || d.Route < 0 || order[d.Route].Cluster != want {
				t.Errorf("order %v: database %q went to %q by route %d, want %q", clusters(order), test.database, d.Cluster, d.Route, want)
			}
		}
	}
}

// Of two routes that name the same database the first that matches decides.
func TestExactRoutesKeepTheirOrder(t *testing.T) {
	rules := policy.Rules{Routes: []policy.Route{
		{Cluster: "rest"},
		{Database: "app", User: "bob", Cluster: "bobs"},
		{Database: "app", Cluster: "first"},
		{Database: "app", Cluster: "second"},
	}}
	view := serving("rest", "bobs", "first", "second")
	for user, want := range map[string]int{"bob": 1, "eve": 2} {
		if d := rules.Decide(policy.Request{Database: "app", User: user}, view, always(0)); d.Route != want {
			t.Errorf("user %q: route %d, want %d", user, d.Route, want)
		}
	}
	// An exact route that its other criteria keep from matching leaves the request to the others.
	rules.Routes = rules.Routes[:2]
	if d := rules.Decide(policy.Request{Database: "app", User: "eve"}, view, always(0)); d.Route != 0 {
		t.Errorf("user eve without a route of her own: route %d, want 0", d.Route)
	}
}

func clusters(routes []policy.Route) []string {
	var names []string
	for _, r := range routes {
		names = append(names, r.Cluster)
	}
	return names
}

// permutations yields every order of routes, in a slice of its own.
func permutations(routes []policy.Route) func(yield func([]policy.Route) bool) {
	return func(yield func([]policy.Route) bool) {
		if len(routes) == 0 {
			yield(nil)
			return
		}
		for i, first := range routes {
			others := slices.Delete(slices.Clone(routes), i, i+1)
			for rest := range permutations(others) {
				if !yield(append([]policy.Route{first}, rest...)) {
					return
				}
			}
		}
	}
}
