package pgcluster

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
)

// addMark commits a new row on the primary and waits until each standby shows it.
func addMark(ctx context.Context, t *testing.T, primary *Server, standbys ...*Server) {
	t.Helper()
	must(t, primary.Exec(ctx, "postgres", "CREATE TABLE IF NOT EXISTS mark (id int GENERATED ALWAYS AS IDENTITY); "+
		"INSERT INTO mark DEFAULT VALUES"))
	want := ask(ctx, t, primary, "SELECT count(*) FROM mark")
	for _, s := range standbys {
		must(t, s.WaitReplay(ctx, primary))
		if got := ask(ctx, t, s, "SELECT count(*) FROM mark"); got != want {
			t.Errorf("%s has %s rows, %s has %s", s.Name, got, primary.Name, want)
		}
	}
}

func TestReplication(t *testing.T) {
	eachVersion(t, func(t *testing.T, found Installation) {
		ctx := testContext(t)
		c := start(ctx, t, Config{Installation: found, Standbys: 2})
		db1, db2, db3 := c.Server("db1"), c.Server("db2"), c.Server("db3")
		if got := len(c.Servers()); got != 3 {
			t.Fatalf("got %d servers, want 3", got)
		}
		for s, want := range map[*Server]string{db1: "f", db2: "t", db3: "t"} {
			if got := ask(ctx, t, s, "SELECT pg_is_in_recovery()"); got != want {
				t.Errorf("%s in recovery: got %s, want %s", s.Name, got, want)
			}
		}
		got := ask(ctx, t, db1, "SELECT string_agg(application_name, ' ' ORDER BY application_name) "+
			"FROM pg_stat_replication WHERE state = 'streaming'")
		if want := "db2 db3"; got != want {
			t.Errorf("db1 streams to %q, want %q", got, want)
		}
		addMark(ctx, t, db1, db2, db3)
		addMark(ctx, t, db1, db2, db3)
	})
}

// TestSwitchover stops the primary in order, promotes a standby, and makes the others follow.
func TestSwitchover(t *testing.T) {
	eachVersion(t, func(t *testing.T, found Installation) {
		ctx := testContext(t)
		c := start(ctx, t, Config{Installation: found, Standbys: 2})
		db1, db2, db3 := c.Server("db1"), c.Server("db2"), c.Server("db3")
		addMark(ctx, t, db1, db2, db3)
		session, err := db3.Conn(ctx, "postgres")
		must(t, err)
		defer func() { _ = session.Close(ctx) }()

		must(t, db1.Stop(ctx, Fast))
		if db1.Alive() || db1.PID() != 0 {
			t.Errorf("db1 lives after Stop: alive %v, pid %d", db1.Alive(), db1.PID())
		}
		must(t, db2.Promote(ctx))
		must(t, db3.Follow(ctx, db2))
		must(t, db1.Follow(ctx, db2))
		addMark(ctx, t, db2, db1, db3)
		if _, err := session.Exec(ctx, "SELECT 1").ReadAll(); err != nil {
			t.Errorf("session on db3 did not outlive Follow: %v", err)
		}
		if err := db2.Promote(ctx); err == nil {
			t.Error("promoted a primary")
		}

		// The running primary becomes a standby of a standby.
		must(t, db2.Stop(ctx, Fast))
		must(t, db3.Promote(ctx))
		must(t, db1.Follow(ctx, db3))
		must(t, db2.Follow(ctx, db1))
		addMark(ctx, t, db3, db1, db2)
	})
}

// TestFailover loses a primary that has WAL which no standby has, so that it must be rebuilt.
func TestFailover(t *testing.T) {
	eachVersion(t, func(t *testing.T, found Installation) {
		ctx := testContext(t)
		c := start(ctx, t, Config{Installation: found, Standbys: 1})
		db1, db2 := c.Server("db1"), c.Server("db2")
		addMark(ctx, t, db1, db2)
		must(t, db2.Stop(ctx, Immediate))
		addMark(ctx, t, db1)
		must(t, db1.KillAll())
		if left := db1.processes(); len(left) > 0 {
			t.Errorf("processes after KillAll: %v", left)
		}
		must(t, db2.Start(ctx))
		must(t, db2.Promote(ctx))
		addMark(ctx, t, db2)
		must(t, db1.Rebuild(ctx, db2))
		addMark(ctx, t, db2, db1)
	})
}

func TestKillAndRestart(t *testing.T) {
	ctx := testContext(t)
	c := start(ctx, t, Config{Installation: installations(t)[0], Standbys: 1})
	db1, db2 := c.Server("db1"), c.Server("db2")
	addMark(ctx, t, db1, db2)
	pid, port := db1.PID(), db1.Port

	must(t, db1.Kill())
	if db1.Alive() {
		t.Error("db1 is alive after Kill")
	}
	must(t, db1.Start(ctx))
	addMark(ctx, t, db1, db2)
	must(t, db1.Restart(ctx))
	addMark(ctx, t, db1, db2)
	must(t, db2.KillAll())
	must(t, db2.Start(ctx))
	addMark(ctx, t, db1, db2)
	if db1.PID() == pid || db1.Port != port {
		t.Errorf("after restarts: pid %d (was %d), port %d (was %d)", db1.PID(), pid, db1.Port, port)
	}
	must(t, db1.Start(ctx)) // it runs already
	must(t, db2.Stop(ctx, Smart))
	must(t, db2.Stop(ctx, Smart))
}

func TestFreeze(t *testing.T) {
	ctx := testContext(t)
	c := start(ctx, t, Config{Installation: installations(t)[0], Standbys: 1})
	db1, db2 := c.Server("db1"), c.Server("db2")
	session, err := db1.Conn(ctx, "postgres")
	must(t, err)
	defer func() { _ = session.Close(ctx) }()

	must(t, db1.FreezePostmaster())
	if !isHalted(db1.PID()) {
		t.Error("the postmaster is not halted")
	}
	if _, err := session.Exec(ctx, "SELECT 1").ReadAll(); err != nil {
		t.Errorf("session with a frozen postmaster: %v", err)
	}
	must(t, db1.ThawPostmaster())
	addMark(ctx, t, db1, db2)

	must(t, db2.Freeze())
	processes := db2.processes()
	if len(processes) < 4 {
		t.Errorf("a standby with processes %v only", processes)
	}
	for _, pid := range processes {
		if !isHalted(pid) {
			t.Errorf("process %d is not halted", pid)
		}
	}
	if !db2.Alive() {
		t.Error("db2 is not alive when frozen")
	}
	must(t, db1.Exec(ctx, "postgres", "INSERT INTO mark DEFAULT VALUES"))
	must(t, db2.Thaw())
	addMark(ctx, t, db1, db2)
	must(t, db2.Freeze()) // and so it stays: Stop must cope
}

func TestPortTaken(t *testing.T) {
	ctx := testContext(t)
	c := start(ctx, t, Config{Installation: installations(t)[0]})
	db1 := c.Server("db1")
	for _, address := range listenAddresses() {
		must(t, db1.Stop(ctx, Fast))
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(db1.Port)))
		must(t, err)
		if err := db1.Start(ctx); !errors.Is(err, errPortTaken) {
			t.Errorf("start with %s taken: got %v, want %v", listener.Addr(), err, errPortTaken)
		}
		if db1.Alive() {
			t.Error("db1 runs on half of its addresses")
		}
		must(t, db1.startOnFreePort(ctx, nil))
		must(t, listener.Close())
		if got, want := ask(ctx, t, db1, "SHOW port"), strconv.Itoa(db1.Port); got != want {
			t.Errorf("got port %s, want %s", got, want)
		}
	}
}
