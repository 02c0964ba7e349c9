package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// crashGoal is how long the sessions of a server that crashed may live. (The figure of docs/failover.md is less; this one
// has room for a busy machine.)
const crashGoal = time.Second

// The primary's postmaster is killed; its children, which do not know yet, could go on to work and to answer. All sessions on
// it end at once, none anywhere else, and when it is back so is the load.
func TestFault01KillPrimary(t *testing.T) {
	r := startFault(t, faultSetup{})
	at := r.load.now()
	r.must(r.db1.Kill())
	r.fenced(r.db1, at, crashGoal)
	r.wantUndisturbed(at, reading)
	r.must(r.db1.Start(testContext(t)))
	r.load.waitAll(r.db1)
	r.wantUndisturbed(at, reading)
	r.finish(r.db1)
}

// wantUndisturbed expects that no session of a kind has ended since a time.
func (r *faultRig) wantUndisturbed(since time.Duration, kind clientKind) {
	r.t.Helper()
	for _, s := range r.c.Servers() {
		for _, ended := range r.load.endings(s, since) {
			if ended.kind == kind {
				r.t.Errorf("a %s session on %s ended: %v", kind, s.Name, ended.err)
			}
		}
	}
}

// The same, and a standby takes over. Its own sessions are asked to move on, and the load comes to it.
func TestFault02PromoteAfterKill(t *testing.T) {
	r := startFault(t, faultSetup{})
	at := r.load.now()
	r.must(r.db1.KillAll())
	r.fenced(r.db1, at, crashGoal)
	at = r.load.now()
	now, other := r.promoteBest(r.db2, r.db3)
	r.load.waitAll(now)
	for _, ended := range r.load.endings(now, at) {
		if response := (*pgconn.PgError)(nil); ended.kind == reading && (!errors.As(ended.err, &response) || response.Code != "57P01") {
			t.Errorf("a session on the promoted %s ended with %v, want SQLSTATE 57P01", now.Name, ended.err)
		}
	}
	r.must(r.db1.Rebuild(testContext(t), now))
	r.p.waitChange(0, other.Name, "replica", "up")
	r.wantRemembered(now, 2)
	r.finish(now)
}

// wantRemembered expects that the program has stored which server is the primary, and on which timeline.
func (r *faultRig) wantRemembered(primary *pgcluster.Server, timeline int) {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join(r.p.dir, "state", "roles", "main.json"))
	r.must(err)
	var stored struct {
		Primary  string `json:"primary"`
		Timeline int    `json:"timeline"`
	}
	r.must(json.Unmarshal(content, &stored))
	if stored.Primary != primary.Name || stored.Timeline != timeline {
		r.t.Errorf("stored is %+v, want %s on timeline %d", stored, primary.Name, timeline)
	}
}

// A backend of the primary crashes, and PostgreSQL restarts itself: every session ends, with the server's own words first,
// and the server is the primary again without having been anything else.
func TestFault03BackendCrash(t *testing.T) {
	r := startFault(t, faultSetup{})
	var notice atomic.Value
	config, err := pgconn.ParseConfig(r.p.dsn("app"))
	if err != nil {
		t.Fatal(err)
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice.Store(n.Code) }
	listener, err := pgconn.ConnectConfig(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, listener, "BEGIN")
	pid, err := r.db1.QueryString(testContext(t), "postgres", "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' LIMIT 1")
	r.must(err)
	victim, err := strconv.Atoi(pid)
	r.must(err)

	at, seen := r.load.now(), r.p.logged()
	r.must(syscall.Kill(victim, syscall.SIGKILL))
	end := endOf(t, listener)
	wantEnd(t, "listening", end)
	// The monitor's session ends in the same moment: the program may be faster than the server's own words.
	if got := notice.Load(); got != "57P02" && !errors.As(end, new(*pgconn.PgError)) {
		t.Errorf("the last notice was %v, want 57P02, or an error of the program; the end was %v", got, end)
	}
	r.fenced(r.db1, at, crashGoal)
	r.load.waitAll(r.db1)
	r.wantUndisturbed(at, reading)
	for _, entry := range r.p.changes(seen, "db1") {
		if entry["role"] != "primary" && entry["role"] != "unknown" {
			t.Errorf("the log says %v", entry)
		}
	}
	r.finish(r.db1)
}

// changes are the log entries about a server behind the first so many.
func (p *program) changes(seen int, backend string) (list []map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, entry := range p.logs[seen:] {
		if entry["msg"] == "server changed" && entry["backend"] == backend {
			list = append(list, entry)
		}
	}
	return list
}

// The primary is stopped, in each of the ways that PostgreSQL knows. In mode smart it waits for its sessions, the monitor's
// among them, and takes no new ones: the program ends them all, so that the stop comes to its end.
func TestFault04Stop(t *testing.T) {
	r := startFault(t, faultSetup{})
	for _, stop := range []struct {
		name string
		mode pgcluster.ShutdownMode
	}{{"fast", pgcluster.Fast}, {"immediate", pgcluster.Immediate}, {"smart", pgcluster.Smart}} {
		ctx, at := testContext(t), r.load.now()
		stopped := make(chan error, 1)
		go func() { stopped <- r.db1.Stop(ctx, stop.mode) }()
		if stop.mode == pgcluster.Smart {
			r.witness() // whose own session the server would wait for
			go r.knock(ctx)
		}
		r.fenced(r.db1, at, crashGoal)
		if err := <-stopped; err != nil {
			t.Fatalf("%s: %v", stop.name, err)
		}
		r.must(r.db1.Start(ctx))
		r.load.waitAll(r.db1)
		r.wantUndisturbed(at, reading)
	}
	r.finish(r.db1)
}

// knock connects again and again until the load is gone from the server: a client that is turned away makes the monitor look at
// once, and not at its next fresh login.
func (r *faultRig) knock(ctx context.Context) {
	for {
		conn, err := pgconn.Connect(ctx, r.p.dsn("app"))
		if err != nil {
			return
		}
		_ = conn.Close(ctx)
	}
}
