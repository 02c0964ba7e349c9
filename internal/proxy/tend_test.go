package proxy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/policy"
)

// Sessions that begin together end apart: over the fifth before the age and the fifth after it, about evenly.
func TestLifetime(t *testing.T) {
	const sessions, parts = 1000, 10
	var count [parts]int
	for id := range uint64(sessions) {
		d := lifetime(id+1, 10*time.Minute)
		if d < 8*time.Minute || d >= 12*time.Minute {
			t.Fatalf("session %d lives for %v", id, d)
		}
		count[(d-8*time.Minute)*parts/(4*time.Minute)]++
	}
	for i, n := range count {
		if n < sessions/parts*9/10 || n > sessions/parts*11/10 {
			t.Errorf("%d of %d sessions end in part %d of %d", n, sessions, i, parts)
		}
	}
}

func TestCrowded(t *testing.T) {
	on := func(counts ...int) []resident {
		var list []resident
		for i, n := range counts {
			for j := range n {
				list = append(list, resident{backend: string(rune('a' + i)), busy: j == 0})
			}
		}
		return list
	}
	with := func(servers []policy.Backend, adjust func(*policy.Backend)) []policy.Backend {
		adjust(&servers[1])
		return servers
	}
	for _, test := range []struct {
		name     string
		sessions []resident
		servers  []policy.Backend
		want     int // idle ones on a
	}{
		{"far more", on(30, 10), replicas("a", "b"), 29},
		{"a fifth more", on(50, 40), replicas("a", "b"), 0},
		{"a little more than that", on(51, 40), replicas("a", "b"), 50},
		{"three: the most and the least count", on(30, 30, 10), replicas("a", "b", "c"), 29},
		{"one more, which would only change sides", on(2, 1), replicas("a", "b"), 0},
		{"two more", on(3, 1), replicas("a", "b"), 2},
		{"by weight", on(10, 30), with(replicas("a", "b"), func(b *policy.Backend) { b.Weight = 3 }), 0},
		{"slow start", on(30, 0), with(replicas("a", "b"), func(b *policy.Backend) { b.Cold = 0.1 }), 0},
		{"the other lags", on(30, 0), with(replicas("a", "b"), func(b *policy.Backend) { b.Lagging = true }), 0},
		{"the other is taken out", on(30, 0), with(replicas("a", "b"), func(b *policy.Backend) { b.Draining = true }), 0},
		{"alone", on(30), replicas("a"), 0},
		{"nobody", nil, nil, 0},
	} {
		idle, _ := crowded(test.sessions, test.servers)
		if len(idle) != test.want {
			t.Errorf("%s: %d sessions may be moved, want %d", test.name, len(idle), test.want)
		}
		for _, r := range idle {
			if r.busy || r.backend != "a" {
				t.Errorf("%s: %+v may be moved", test.name, r)
			}
		}
	}
}

// A session that is too old ends when it is idle, one in a transaction after that.
func TestMaxSessionAge(t *testing.T) {
	r := serve(t, sharedCluster(t), func(c *Config) { c.Clusters[0].Placement.MaxSessionAge = time.Second })
	idle, busy := r.connect("app"), r.connect("app")
	exec(t, busy, "BEGIN")
	for _, conn := range []*pgconn.PgConn{idle, busy} {
		if conn == busy {
			eventually(t, "the busy session is asked to end", func() bool { return r.List()[0].State == SessionEnding })
			exec(t, busy, "SELECT 1")
			exec(t, busy, "COMMIT")
		}
		if got := told(t, conn); got.Code != "57P01" || !strings.Contains(got.Message, "max_session_age") {
			t.Errorf("told %v", got)
		}
	}
}

// With rebalance, one in a hundred sessions a second moves from the replica that has all of them, and no busy one.
func TestRebalance(t *testing.T) {
	r := serve(t, sharedCluster(t), func(c *Config) { c.DrainTimeout = time.Hour })
	c := *r.settings.Load().clusters["main"] // a copy: the Server itself looks too, at its own
	c.Placement.Rebalance = true
	if err := r.DrainBackend("main", "db3", true); err != nil {
		t.Fatal(err)
	}
	const sessions = 20
	busy := r.connect("app_replica")
	exec(t, busy, "BEGIN")
	for range sessions - 1 {
		r.connect("app_replica")
	}
	if err := r.DrainBackend("main", "db3", false); err != nil {
		t.Fatal(err)
	}
	credit := 0.0
	for look := 1; look <= 20; look++ {
		r.tendOnce(&c, &credit)
		eventually(t, "who was asked to end has ended", func() bool {
			return !slices.ContainsFunc(r.List(), func(info SessionInfo) bool { return info.State == SessionEnding })
		})
		if moved := sessions - r.Sessions(); moved > look*sessions/100 {
			t.Fatalf("after %d looks %d of %d sessions have moved", look, moved, sessions)
		}
	}
	if moved := sessions - r.Sessions(); moved < 3 {
		t.Errorf("after 20 looks %d of %d sessions have moved", moved, sessions)
	}
	exec(t, busy, "SELECT 1")
}

// Sessions that are on the primary for want of a replica move back when there is one, a few at a time and none in the middle of a
// transaction.
func TestFallbackReturns(t *testing.T) {
	cluster := newCluster(t, pgcluster.Config{Standbys: 1})
	t.Cleanup(func() {
		if err := cluster.Stop(within(t)); err != nil {
			t.Error(err)
		}
	})
	r := serve(t, cluster, func(c *Config) {
		c.DrainTimeout = time.Hour
		c.Routes.Routes[0].Fallback = policy.FallbackNoReplica
	})
	if err := cluster.Server("db2").Stop(within(t), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	on := func(conn *pgconn.PgConn) string { return exec(t, conn, "SELECT pg_is_in_recovery()") }
	eventually(t, "the standby is gone", func() bool {
		st, _ := r.Snapshots()["main"].State("db2")
		return st.Role == policy.Unknown
	})
	stranded, busy, writer := r.connect("app_replica"), r.connect("app_replica"), r.connect("app")
	exec(t, busy, "BEGIN")
	if on(stranded) != "f" || on(busy) != "f" {
		t.Fatal("without a replica the sessions are not on the primary")
	}
	if err := cluster.Server("db2").Start(within(t)); err != nil {
		t.Fatal(err)
	}
	if got := told(t, stranded); got.Code != "57P01" || !strings.Contains(got.Message, "another server suits it better") {
		t.Errorf("told %v", got)
	}
	if on(r.connect("app_replica")) != "t" {
		t.Error("with a replica a new session is on the primary")
	}
	eventually(t, "the busy session is asked to end", func() bool {
		for _, info := range r.List() {
			if info.State == SessionEnding {
				return true
			}
		}
		return false
	})
	exec(t, busy, "SELECT 1")
	exec(t, busy, "COMMIT")
	if got := told(t, busy); got.Code != "57P01" {
		t.Errorf("told %v", got)
	}
	exec(t, writer, "SELECT 1")
}
