package backends

import (
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/policy"
)

// What servers tell a role without privileges, and what pg_monitor adds.
func TestRealReading(t *testing.T) {
	noLeaks(t)
	cluster := startCluster(t, pgcluster.Config{Standbys: 1})
	db1, db2 := cluster.Server("db1"), cluster.Server("db2")
	do(t, db1.Exec(within(t), "postgres", "ALTER ROLE monitor SET search_path = information_schema"))
	read := func(s *pgcluster.Server) reading {
		t.Helper()
		session, err := logIn(within(t), over(s, TLSOff), testCredentials, patience)
		do(t, err)
		defer session.close()
		r, err := session.ask(within(t))
		do(t, err)
		if r.systemIdentifier == "" || r.serverVersion == "" || r.peer != over(s, TLSOff).Address || time.Since(r.started) > time.Hour ||
			time.Since(r.started) < 0 {
			t.Errorf("%s: %+v", s.Name, r)
		}
		return r
	}

	one := read(db1)
	if one.role != policy.Primary || one.timeline != 1 || one.written == 0 || one.senders != 1 || one.receiving || one.readOnly {
		t.Errorf("primary: %+v", one)
	}
	two := read(db2)
	if two.role != policy.Replica || two.timeline != 0 || two.replayed == 0 || two.received == 0 || !two.receiving ||
		two.receiver != "" || two.upstream != "" || two.delay != 0 || two.paused {
		t.Errorf("standby, plain role: %+v", two)
	}

	do(t, db1.Exec(within(t), "postgres", "GRANT pg_monitor TO monitor"))
	do(t, db1.Exec(within(t), "postgres", "ALTER SYSTEM SET default_transaction_read_only = on"))
	do(t, db1.Reload())
	do(t, db2.WaitReplay(within(t), db1))
	do(t, db2.Exec(within(t), "postgres", "SELECT pg_wal_replay_pause()"))
	do(t, db2.Exec(within(t), "postgres", "ALTER SYSTEM SET recovery_min_apply_delay = '90min'"))
	do(t, db2.Reload())
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // a reload has no end that shows
		one, two = read(db1), read(db2)
		if one.readOnly && two.delay != 0 && two.paused {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("primary %+v, standby %+v", one, two)
		}
	}
	if two.timeline != 1 || two.receiver != "streaming" || two.upstream != over(db1, TLSOff).Address || two.delay != 90*time.Minute {
		t.Errorf("standby, pg_monitor: %+v", two)
	}
}
