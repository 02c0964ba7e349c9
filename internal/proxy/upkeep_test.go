package proxy

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/discovery"
	"github.com/replicon/pgreplicaproxy/policy"
)

func at(name, address string) backends.Target {
	return backends.Target{Cluster: "main", Name: name, Network: "tcp", Address: address, Weight: 1}
}

// The leader is known by its address, and by its name where the configuration writes the address in another way.
func TestLeaderOf(t *testing.T) {
	all := []backends.Target{at("db1", "10.0.0.1:5432"), at("db2", "db2.internal:5432"), at("node1", "10.0.0.9:5432")}
	for _, c := range []struct{ leader, address, want string }{
		{"node1", "10.0.0.1:5432", "db1"},
		{"db2", "10.0.0.2:5432", "db2"},
		{"node3", "10.0.0.3:5432", ""},
		{"", "", ""},
		{"", "10.0.0.1:5432", ""},
	} {
		if got := leaderOf(discovery.Found{Leader: c.leader, LeaderAddress: c.address}, all); got != c.want {
			t.Errorf("%s at %s: got %q, want %q", c.leader, c.address, got, c.want)
		}
	}
}

func TestWithFound(t *testing.T) {
	named := []backends.Target{at("db1", "10.0.0.1:5432")}
	got := withFound(named, []backends.Target{at("db1", "10.0.0.2:5432"), at("db2", "10.0.0.3:5432")})
	if want := []backends.Target{at("db1", "10.0.0.1:5432"), at("db2", "10.0.0.3:5432")}; !slices.Equal(got, want) || len(named) != 1 {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Servers that are found are watched beside those of the configuration, from the first round on, through an Update that knows
// nothing of them, and until their source is gone from the configuration.
func TestFoundServersAreWatched(t *testing.T) {
	rest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"members": [{"name": "node1", "role": "replica", "state": "running", "host": "127.0.0.1", "port": 1}]}`))
	}))
	defer rest.Close()
	found := clusterOf(t, "main")
	found.Discovery = discovery.Config{Cluster: "main", Patroni: &discovery.Patroni{
		URLs: []string{rest.URL}, Interval: time.Hour, Target: at("", ""),
	}}
	s := running(t, Config{Clusters: []ClusterConfig{found}, Routes: policy.Rules{Routes: policy.DefaultRoutes("main")}})
	if st, named := s.Snapshots()["main"].State("node1"); !named || st.Status != backends.Down {
		t.Errorf("after the first round node1 is %+v, want it asked", st)
	}
	found.Monitor.Targets = []backends.Target{at("db1", "127.0.0.1:1")}
	if err := s.Update(t.Context(), Config{Clusters: []ClusterConfig{found}}); err != nil {
		t.Fatal(err)
	}
	awaitServers(t, s, "main", "db1", "node1")
	found.Discovery = discovery.Config{}
	if err := s.Update(t.Context(), Config{Clusters: []ClusterConfig{found}}); err != nil {
		t.Fatal(err)
	}
	awaitServers(t, s, "main", "db1")
}

// What is kept of servers that are gone goes with their last session.
func TestGoneServersAreForgotten(t *testing.T) {
	var st standings
	var a audits
	for _, name := range []string{"stays", "busy", "gone"} {
		st.drain(name, true)
		a.note(name, nil, time.Now())
	}
	st.of("busy").sessions = 1
	known := &backends.Snapshot{States: []backends.State{{Target: at("stays", "10.0.0.1:5432")}}}
	st.forget(known)
	a.forget(known)
	if got := slices.Sorted(maps.Keys(st.byName)); !slices.Equal(got, []string{"busy", "stays"}) {
		t.Errorf("standings are kept of %v", got)
	}
	if got := slices.Sorted(maps.Keys(a.byName)); !slices.Equal(got, []string{"stays"}) {
		t.Errorf("audits are kept of %v", got)
	}
}
