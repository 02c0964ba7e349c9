package policy_test

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

func TestCovers(t *testing.T) {
	type route = policy.Route
	for _, test := range []struct {
		name     string
		r, later route
		want     bool
	}{
		{"catch-all, catch-all", route{}, route{}, true},
		{"catch-all, suffix", route{}, route{DatabaseSuffix: "_replica"}, true},
		{"catch-all, pattern", route{}, route{DatabasePattern: "app_*"}, true},
		{"catch-all, user", route{}, route{User: "bob"}, true},
		{"catch-all, exact: that one is looked at first", route{}, route{Database: "app"}, false},
		{"suffix, exact: likewise", route{DatabaseSuffix: "_replica"}, route{Database: "app_replica"}, false},
		{"exact, catch-all", route{Database: "app"}, route{}, false},
		{"exact, same", route{Database: "app"}, route{Database: "app"}, true},
		{"exact, same with user", route{Database: "app"}, route{Database: "app", User: "bob"}, true},
		{"exact with user, same without", route{Database: "app", User: "bob"}, route{Database: "app"}, false},
		{"exact, other", route{Database: "app"}, route{Database: "hr"}, false},
		{"suffix, same", route{DatabaseSuffix: "_replica"}, route{DatabaseSuffix: "_replica"}, true},
		{"suffix, longer", route{DatabaseSuffix: "_replica"}, route{DatabaseSuffix: "_eu_replica"}, true},
		{"suffix, shorter", route{DatabaseSuffix: "_eu_replica"}, route{DatabaseSuffix: "_replica"}, false},
		{"suffix, catch-all", route{DatabaseSuffix: "_replica"}, route{}, false},
		{"pattern, same", route{DatabasePattern: "app_*"}, route{DatabasePattern: "app_*"}, true},
		{"pattern, other", route{DatabasePattern: "app_*"}, route{DatabasePattern: "hr_*"}, false},
		{"user, same", route{User: "bob"}, route{User: "bob"}, true},
		{"user, other", route{User: "bob"}, route{User: "eve"}, false},
		{"user, any", route{User: "bob"}, route{}, false},
		{"sni, in another case", route{ServerName: "db.example.com"}, route{ServerName: "DB.example.com"}, true},
		{"sni, any", route{ServerName: "db.example.com"}, route{}, false},
		{"replication, plain", route{Replication: true}, route{}, false},
		{"plain, replication", route{}, route{Replication: true}, false},
		{"replication, replication", route{Replication: true}, route{Replication: true, User: "bob"}, true},
		{"where they lead does not matter", route{Cluster: "a"}, route{Cluster: "b", Target: policy.TargetAny}, true},
	} {
		if got := test.r.Covers(&test.later); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// Whatever pair of routes Covers says yes to: no request reaches the later one. The requests are chosen so that every
// route used here takes at least one, and every criterion divides them.
func TestCoversAgainstEveryRequest(t *testing.T) {
	routes, requests, view := someRoutes(), someRequests(), serving("main")
	reached := make([]bool, len(routes))
	for i := range routes {
		covered := 0
		for j := range routes {
			if !routes[i].Covers(&routes[j]) {
				continue
			}
			covered++
			rules := policy.Rules{Routes: []policy.Route{routes[i], routes[j]}}
			for _, q := range requests {
				if d := rules.Decide(q, view, always(0)); d.Route == 1 {
					t.Fatalf("%+v is said to cover %+v, which took %+v", routes[i], routes[j], q)
				}
			}
		}
		if covered == 0 {
			t.Errorf("%+v does not cover even itself", routes[i])
		}
		alone := policy.Rules{Routes: routes[i : i+1]}
		for _, q := range requests {
			reached[i] = reached[i] || alone.Decide(q, view, always(0)).Route == 0
		}
		if !reached[i] {
			t.Errorf("no request of this test matches %+v", routes[i])
		}
	}
}

// someRoutes is every mix of a few values for each criterion.
func someRoutes() []policy.Route {
	databases := []policy.Route{
		{},
		{Database: "app"},
		{Database: "app_replica"},
		{DatabasePattern: "*"},
		{DatabasePattern: "app*"},
		{DatabasePattern: "*_replica"},
		{DatabaseSuffix: "_replica"},
		{DatabaseSuffix: "replica"},
		{DatabaseSuffix: "b_replica"},
	}
	var routes []policy.Route
	for _, r := range databases {
		r.Cluster, r.Target = "main", policy.TargetAny
		for _, r.User = range []string{"", "bob", "eve"} {
			for _, r.ServerName = range []string{"", "db", "DB"} {
				for _, r.Replication = range []bool{false, true} {
					routes = append(routes, r)
				}
			}
		}
	}
	return routes
}

func someRequests() []policy.Request {
	var requests []policy.Request
	for _, database := range []string{
		"app", "app_replica", "_replica", "replica", "xreplica", "b_replica", "ab_replica", "app_replica_replica", "a/b", "hr",
	} {
		for _, user := range []string{"bob", "eve", "eva"} {
			for _, serverName := range []string{"", "db", "dB", "other"} {
				for _, replication := range []bool{false, true} {
					requests = append(requests, policy.Request{
						Database: database, User: user, ServerName: serverName, Replication: replication,
					})
				}
			}
		}
	}
	return requests
}
