package backends

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/policy"
)

// watched starts servers, and a monitor of them that asks often.
func watched(t *testing.T, standbys int, config MonitorConfig) (*pgcluster.Cluster, *Monitor, *journal) {
	t.Helper()
	cluster := startCluster(t, pgcluster.Config{Standbys: standbys})
	do(t, cluster.Server("db1").Exec(within(t), "postgres", "GRANT pg_monitor TO monitor"))
	for _, s := range cluster.Servers() {
		config.Targets = append(config.Targets, over(s, TLSOff))
		do(t, s.WaitReplay(within(t), cluster.Server("db1")))
	}
	config.Interval = 50 * time.Millisecond
	m, log := monitor(t, config)
	awaitServer(t, m, "db1", policy.Primary, Up)
	for _, s := range cluster.Servers()[1:] {
		awaitServer(t, m, s.Name, policy.Replica, Up)
	}
	return cluster, m, log
}

// write makes the primary write about a megabyte of log.
func write(t *testing.T, s *pgcluster.Server) {
	t.Helper()
	do(t, s.Exec(within(t), "postgres", "CREATE TABLE IF NOT EXISTS filled (t text); INSERT INTO filled SELECT repeat('x', 500) FROM generate_series(1, 2000)"))
}

// A standby whose replay is paused lags by what it has not replayed, in bytes and in seconds, whatever it receives; and comes back.
func TestRealLag(t *testing.T) {
	noLeaks(t)
	cluster, m, log := watched(t, 1, MonitorConfig{MaxLag: LagLimit{Bytes: 256 << 10}})
	db1, db2 := cluster.Server("db1"), cluster.Server("db2")
	do(t, db2.Exec(within(t), "postgres", "SELECT pg_wal_replay_pause()"))
	write(t, db1)
	s := await(t, m, "db2 lags", func(s *Snapshot) bool { return s.States[1].Lagging })
	st := s.States[1]
	if st.Role != policy.Replica || st.Status != Up || st.LagBytes <= 256<<10 || !st.LagBytesKnown || !st.LagTimeKnown || !st.Paused {
		t.Errorf("state is %+v", st)
	}
	if b := s.Backends[1]; !b.Lagging || b.Replayed != st.Replayed || b.Replayed == 0 {
		t.Errorf("backend is %+v", b)
	}
	await(t, m, "the lag in seconds grows with what is written", func(s *Snapshot) bool {
		if s.States[1].LagTime > time.Second {
			return true
		}
		do(t, db1.Exec(within(t), "postgres", "SELECT pg_switch_wal()"))
		return false
	})
	do(t, db1.KillAll())
	awaitServer(t, m, "db1", policy.Unknown, Down)
	if st, _ := m.Snapshot().State("db2"); st.LagBytes == 0 || st.LagTime == 0 || !st.Lagging {
		t.Errorf("without a primary the state is %+v", st)
	}
	do(t, db1.Start(within(t)))
	do(t, db2.Exec(within(t), "postgres", "SELECT pg_wal_replay_resume()"))
	await(t, m, "db2 has caught up", func(s *Snapshot) bool {
		return s.States[1].Role == policy.Replica && !s.States[1].Lagging && s.States[1].LagBytes == 0
	})
	lagging := 0
	for _, entry := range log.entries(t, "db2") {
		if entry["lagging"] == true {
			lagging++
		}
	}
	if lagging != 1 {
		t.Errorf("the lag was told %d times", lagging)
	}
}

// On an idle primary nobody is behind, however long nothing is written.
func TestRealIdlePrimary(t *testing.T) {
	noLeaks(t)
	cluster, m, _ := watched(t, 1, MonitorConfig{MaxLag: LagLimit{Time: time.Second}})
	write(t, cluster.Server("db1"))
	do(t, cluster.Server("db1").Exec(within(t), "postgres", "CHECKPOINT"))
	await(t, m, "db2 has all", func(s *Snapshot) bool {
		return s.States[1].LagBytesKnown && s.States[1].LagBytes == 0 && !s.States[1].Lagging
	})
	over := time.Now().Add(3 * time.Second)
	for time.Now().Before(over) {
		if st := m.Snapshot().States[1]; st.LagTime > 500*time.Millisecond || st.Lagging {
			t.Fatalf("state is %+v", st)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A standby that is late on purpose is not served; where it may be, it is measured by what it has received.
func TestRealDelayedStandby(t *testing.T) {
	noLeaks(t)
	cluster, m, _ := watched(t, 1, MonitorConfig{})
	db1, db2 := cluster.Server("db1"), cluster.Server("db2")
	do(t, db2.Exec(within(t), "postgres", "ALTER SYSTEM SET recovery_min_apply_delay = '1h'"))
	do(t, db2.Reload())
	if st := awaitServer(t, m, "db2", policy.Unknown, Delayed); st.Detail != "replays 1h0m0s late on purpose" || st.Claim != policy.Replica {
		t.Errorf("state is %+v", st)
	}
	m.Update(MonitorConfig{
		Targets: []Target{over(db1, TLSOff), over(db2, TLSOff)}, Credentials: testCredentials, Interval: 50 * time.Millisecond,
		AllowDelayed: true, MaxLag: LagLimit{Bytes: 64 << 10},
	})
	awaitServer(t, m, "db2", policy.Replica, Up)
	write(t, db1) // what is late is its end: the commit
	await(t, m, "db2 is late, and does not lag", func(s *Snapshot) bool {
		st := s.States[1]
		return st.LagBytes > 64<<10 && st.Received >= s.States[0].Written && !st.Lagging
	})
}

// Facts 2 and 4: of two standbys that are promoted independently the first is believed, though both chose the same timeline; and
// a copy of the primary is not, though it has the same timeline too. R3: the second one is once the first is gone.
func TestRealDoublePromotion(t *testing.T) {
	noLeaks(t)
	path := filepath.Join(t.TempDir(), "roles", "main.json")
	do(t, CheckStateFile(path))
	cluster, m, log := watched(t, 2, MonitorConfig{StateFile: path})
	db1, db2, db3 := cluster.Server("db1"), cluster.Server("db2"), cluster.Server("db3")
	do(t, db1.KillAll())
	awaitServer(t, m, "db1", policy.Unknown, Down)
	do(t, db2.Promote(within(t)))
	awaitServer(t, m, "db2", policy.Primary, Up)
	do(t, db3.Promote(within(t)))
	three := awaitServer(t, m, "db3", policy.Unknown, Quarantined)
	if three.Timeline != 2 || three.Detail != "claims to be primary on timeline 2, on which db2 was accepted" {
		t.Errorf("state is %+v", three)
	}
	do(t, db1.Start(within(t)))
	awaitServer(t, m, "db1", policy.Unknown, Quarantined)
	do(t, db2.KillAll())
	three = awaitServer(t, m, "db3", policy.Primary, Up)
	if three.Reason != "timeline 2 after 2; db2 is down" {
		t.Errorf("state is %+v", three)
	}
	log.awaitLast(t, "db3", map[string]any{"level": "WARN", "because": three.Reason})
	if kept, err := loadMemory(path); err != nil || kept.Primary != "db3" || kept.Epoch != 2 {
		t.Errorf("%+v, %v", kept, err)
	}
}

// A standby that loses its standby.signal is a copy of the primary: the same cluster, the same timeline.
func TestRealClone(t *testing.T) {
	noLeaks(t)
	cluster, m, _ := watched(t, 1, MonitorConfig{})
	db1, db2 := cluster.Server("db1"), cluster.Server("db2")
	do(t, db2.Stop(within(t), pgcluster.Fast))
	do(t, os.Remove(filepath.Join(db2.DataDir, "standby.signal")))
	do(t, db2.Start(within(t)))
	two := awaitServer(t, m, "db2", policy.Unknown, Quarantined)
	if two.Timeline != 1 || two.Claim != policy.Primary {
		t.Errorf("state is %+v", two)
	}
	write(t, db2)
	do(t, db1.Freeze())
	awaitServer(t, m, "db1", policy.Unknown, Silent)
	if st, _ := m.Snapshot().State("db2"); st.Role != policy.Unknown {
		t.Errorf("state is %+v", st)
	}
	do(t, db1.Thaw())
	awaitServer(t, m, "db1", policy.Primary, Up)
}
