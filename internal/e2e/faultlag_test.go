package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// A standby falls behind: because it is told to pause, or because its receiver hangs, which it does not say itself. New
// sessions go to the other one until it has caught up; those that it has may stay.
func TestFault19Lag(t *testing.T) {
	// For a moment both may lag: the standby that nothing is wrong with has to replay the same megabytes.
	lines := []string{"max_lag = \"1MB\"", "hold_replica = \"10s\""}
	r := startFault(t, faultSetup{async: true, lines: lines, mix: map[clientKind]int{writing: 4, reading: 8}})
	ctx := testContext(t)
	if err := r.db1.Exec(ctx, "postgres", "CREATE TABLE bulk (text text)"); err != nil {
		t.Fatal(err)
	}
	receiver, err := r.db2.QueryString(ctx, "postgres", "SELECT pid FROM pg_stat_wal_receiver")
	r.must(err)
	pid, err := strconv.Atoi(receiver)
	r.must(err)
	for _, lag := range []struct {
		name        string
		begin, over func() error
	}{
		{
			"replay paused",
			func() error { return r.db2.Exec(ctx, "postgres", "SELECT pg_wal_replay_pause()") },
			func() error { return r.db2.Exec(ctx, "postgres", "SELECT pg_wal_replay_resume()") },
		},
		{
			"receiver stuck",
			func() error { return syscall.Kill(pid, syscall.SIGSTOP) },
			func() error { return syscall.Kill(pid, syscall.SIGCONT) },
		},
	} {
		at := r.load.now()
		stays := sessionOn(t, r.p, "app_replica", r.db2)
		r.must(lag.begin())
		r.must(r.db1.Exec(ctx, "postgres", "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 5000)"))
		r.waitPlaces("app_replica", r.db3)
		ask(t, stays, "SELECT 1")
		r.must(stays.Close(ctx))
		r.must(lag.over())
		_ = sessionOn(t, r.p, "app_replica", r.db2).Close(ctx)
		r.wantUndisturbed(at, reading)
		t.Logf("%s: out and back", lag.name)
	}
	r.finish(r.db1)
}

// waitPlaces waits until a good number of new sessions in a row all come to one server.
func (r *faultRig) waitPlaces(database string, s *pgcluster.Server) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for inRow := 0; inRow < 12; inRow++ {
		conn := connect(r.t, r.p.dsn(database))
		if portOf(r.t, conn) != port(s) {
			inRow = 0
		}
		_ = conn.Close(testContext(r.t))
		if time.Now().After(deadline) {
			r.t.Fatalf("sessions of %s never settled on %s", database, s.Name)
		}
	}
}

// idleTime is how long nothing is written in the test of an idle primary.
const idleTime = 5 * time.Second

// Nothing is written for a while, which is no lag, however old the last transaction is.
func TestFault20IdlePrimary(t *testing.T) {
	r := startFault(t, faultSetup{lines: []string{"max_lag = \"1s\""}, mix: map[clientKind]int{reading: 8}})
	at, seen := r.load.now(), r.p.logged()
	for end := time.Now().Add(long(idleTime, time.Minute)); time.Now().Before(end); {
		for _, s := range []*pgcluster.Server{r.db2, r.db3} {
			_ = sessionOn(t, r.p, "app_replica", s).Close(testContext(t))
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, s := range r.c.Servers() {
		for _, entry := range r.p.changes(seen, s.Name) {
			t.Errorf("the log says %v", entry)
		}
	}
	r.wantUndisturbed(at, reading)
	r.finish(r.db1)
}

// A standby restarts over and over, and then stays at a point where it lets nobody in. No client ever hears of it.
func TestFault21ReplicaStarting(t *testing.T) {
	r := startFault(t, faultSetup{mix: map[clientKind]int{writing: 4, reading: 8}})
	ctx := testContext(t)
	for range long(2, 10) {
		r.must(r.db3.Restart(ctx))
		_ = sessionOn(t, r.p, "app_replica", r.db3).Close(ctx)
	}
	r.must(r.db3.Exec(ctx, "postgres", "ALTER SYSTEM SET hot_standby = off"))
	seen := r.p.logged()
	r.must(r.db3.Stop(ctx, pgcluster.Fast))
	closed, open := context.WithCancel(ctx)
	started := make(chan error, 1)
	go func() { started <- r.db3.Start(closed) }()
	r.p.waitChange(seen, "db3", "unknown", "starting")
	wantPlace(t, r.p, "app_replica", r.db2)
	open()
	<-started // it was not to come up
	r.must(os.Remove(filepath.Join(r.db3.DataDir, "postgresql.auto.conf")))
	seen = r.p.logged()
	r.must(r.db3.Start(ctx))
	r.p.waitChange(seen, "db3", "replica", "up")
	_ = sessionOn(t, r.p, "app_replica", r.db3).Close(ctx)
	r.wantNoRefusal(reading)
	r.finish(r.db1)
}

// wantNoRefusal expects that no login of a kind of client has failed.
func (r *faultRig) wantNoRefusal(kind clientKind) {
	r.t.Helper()
	r.load.mu.Lock()
	defer r.load.mu.Unlock()
	for _, refused := range r.load.refused {
		if refused.kind == kind {
			r.t.Errorf("a login was refused: %v", refused.err)
		}
	}
}

// A standby comes and goes all the time. Its peers' sessions are left alone, clients never hear of it, and the log stays
// readable.
func TestFault31FlappingReplica(t *testing.T) {
	r := startFault(t, faultSetup{mix: map[clientKind]int{writing: 4, reading: 8}})
	ctx, seen, rounds := testContext(t), r.p.logged(), long(3, 20)
	stays := sessionOn(t, r.p, "app_replica", r.db2)
	for range rounds {
		r.must(r.db3.KillAll())
		wantPlace(t, r.p, "app_replica", r.db2)
		r.must(r.db3.Start(ctx))
	}
	ask(t, stays, "SELECT 1")
	r.must(stays.Close(ctx))
	if n := len(r.p.changes(seen, "db2")) + len(r.p.changes(seen, "db1")); n != 0 {
		t.Errorf("the log has %d lines about the others", n)
	}
	if n := len(r.p.changes(seen, "db3")); n > 6*rounds {
		t.Errorf("the log has %d lines about %d rounds", n, rounds)
	}
	_ = sessionOn(t, r.p, "app_replica", r.db3).Close(ctx)
	r.wantNoRefusal(reading)
	r.finish(r.db1)
}
