package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// running returns a server of cfg that runs as long as the test, and is checked for what it leaves behind.
func running(t *testing.T, cfg Config) *Server {
	t.Helper()
	before := goleak.IgnoreCurrent()
	s := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		s.Close()
		goleak.VerifyNone(t, before)
	})
	<-s.Watched(ctx)
	return s
}

// clusterOf is a cluster whose servers, by their names, are all down.
func clusterOf(t *testing.T, name string, servers ...string) ClusterConfig {
	t.Helper()
	c := ClusterConfig{Monitor: backends.MonitorConfig{Cluster: name}}
	for _, server := range servers {
		c.Monitor.Targets = append(c.Monitor.Targets, backends.Target{
			Cluster: name, Name: server, Network: "tcp", Address: "127.0.0.1:1", Weight: 1,
		})
	}
	return c
}

func names(s *backends.Snapshot) []string {
	var list []string
	for _, st := range s.States {
		list = append(list, st.Target.Name)
	}
	return list
}

// awaitServers waits until the servers of a cluster are these.
func awaitServers(t *testing.T, s *Server, cluster string, want ...string) {
	t.Helper()
	over := time.After(patience)
	for {
		snapshot := s.Snapshots()[cluster]
		if slices.Equal(names(snapshot), want) {
			return
		}
		select {
		case <-snapshot.Changed():
		case <-over:
			t.Fatalf("the servers of %s are %v, want %v", cluster, names(snapshot), want)
		}
	}
}

// After Update the routes are the new ones, clusters that stay go on, new ones have been asked, and old ones are forgotten.
func TestUpdate(t *testing.T) {
	s := running(t, Config{
		Clusters: []ClusterConfig{clusterOf(t, "stays", "db1", "db2"), clusterOf(t, "goes", "db1")},
		Routes:   policy.Rules{Routes: policy.DefaultRoutes("goes")},
	})
	stays, goes := s.settings.Load().clusters["stays"], s.settings.Load().clusters["goes"]
	replaced := s.settings.Load().replaced
	if err := s.Update(t.Context(), Config{
		Clusters:     []ClusterConfig{clusterOf(t, "comes", "db1"), clusterOf(t, "stays", "db3", "db1")},
		Routes:       policy.Rules{Routes: policy.DefaultRoutes("comes")},
		DrainTimeout: time.Minute,
	}); err != nil {
		t.Fatal(err)
	}
	<-replaced
	snapshots := s.Snapshots()
	if got := slices.Sorted(maps.Keys(snapshots)); !slices.Equal(got, []string{"comes", "stays"}) {
		t.Errorf("clusters are %v", got)
	}
	if st := snapshots["comes"].States[0]; st.Status != backends.Down {
		t.Errorf("the new cluster's server is %+v, want it asked", st)
	}
	awaitServers(t, s, "stays", "db3", "db1")
	if s.settings.Load().clusters["stays"].upkeep != stays.upkeep {
		t.Error("the cluster that stays is watched by another monitor")
	}
	if cluster := s.settings.Load().routes.Cluster(policy.Request{Database: "app"}); cluster != "comes" {
		t.Errorf("a session goes to %q", cluster)
	}
	if _, err := goes.secrets.Lookup(t.Context(), "db1", "app", 0); err == nil {
		t.Error("secrets of a removed cluster can be read")
	}
	for snapshot := goes.monitor.Snapshot(); len(snapshot.States) > 0; snapshot = goes.monitor.Snapshot() {
		<-snapshot.Changed()
	}
}

// While a new cluster's servers were not asked, nothing has changed, and if nobody wants to wait for them, nothing does.
func TestUpdateGivenUp(t *testing.T) {
	s := running(t, Config{Clusters: []ClusterConfig{clusterOf(t, "main", "db1")}})
	before := s.settings.Load()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	comes := clusterOf(t, "comes", "db1")
	comes.Monitor.Targets[0].Address, comes.Monitor.Timeout = silent.Addr().String(), time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := silent.Accept() // the server is being asked
		cancel()
		if err == nil {
			defer func() { _ = conn.Close() }()
			_, _ = io.Copy(io.Discard, conn) // and never answers
		}
	}()
	if err := s.Update(ctx, Config{Clusters: []ClusterConfig{comes}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if s.settings.Load() != before {
		t.Error("the settings have changed")
	}
	awaitServers(t, s, "main", "db1")
}

// A session on a server that nobody watches any more may finish what it does, unless it writes and another server is the
// primary.
func TestFateOfRemoved(t *testing.T) {
	removed := backends.Target{Name: "db1", Address: "10.0.0.1:5432"}
	server := func(address string, role policy.Role) *backends.Snapshot {
		return &backends.Snapshot{States: []backends.State{{Target: backends.Target{Name: "db2", Address: address}, Role: role}}}
	}
	for _, c := range []struct {
		what     string
		snapshot *backends.Snapshot
		target   policy.Target
		want     fate
	}{
		{"no other server", new(backends.Snapshot), policy.TargetPrimary, drain},
		{"another is a replica", server("10.0.0.2:5432", policy.Replica), policy.TargetPrimary, drain},
		{"another is unknown", server("10.0.0.2:5432", policy.Unknown), policy.TargetPrimary, drain},
		{"another is the primary", server("10.0.0.2:5432", policy.Primary), policy.TargetPrimary, end},
		{"another is the primary", server("10.0.0.2:5432", policy.Primary), policy.TargetAny, end},
		{"another is the primary", server("10.0.0.2:5432", policy.Primary), policy.TargetReplica, drain},
		{"the primary has a new name", server("10.0.0.1:5432", policy.Primary), policy.TargetPrimary, drain},
	} {
		if got := fateOfRemoved(removed, c.snapshot, c.target); got != c.want {
			t.Errorf("%s, session for %v: got %v, want %v", c.what, c.target, got, c.want)
		}
	}
}
