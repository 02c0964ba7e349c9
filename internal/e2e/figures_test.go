//go:build chaos

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// TestFigures measures what docs/failover.md tells, and prints it as a table. The configuration is the one that an operator
// gets who says nothing: questions every second, answers within a second, clients held for 10 s.
func TestFigures(t *testing.T) {
	var table strings.Builder
	table.WriteString("\n| | goal | n | median | worst |\n|---|---|---|---|---|\n")
	for _, figure := range []struct {
		name, goal string
		measure    func(t *testing.T) []time.Duration
	}{
		{"SIGKILL of the primary until all of 56 sessions on it are closed", "50 ms", measureCrash},
		{"the same, when the program and its clients come before the servers' processes", "50 ms", measureCrashFirst},
		{"a standby is promoted until the first new session for writing is served", "1.1 s", measurePromotion},
		{"the primary freezes until all of 56 sessions on it are closed", "4 s", measureFreeze},
	} {
		t.Run(figure.name, func(t *testing.T) {
			times := figure.measure(t)
			slices.Sort(times)
			fmt.Fprintf(&table, "| %s | %s | %d | %v | %v |\n", figure.name, figure.goal, len(times),
				round(times[len(times)/2]), round(times[len(times)-1]))
		})
	}
	for _, way := range []switchoverWay{
		{name: "switchovers"}, {name: "switchovers with passthrough", passthrough: true}, {name: "switchovers after a drain", drain: true},
	} {
		t.Run(way.name, func(t *testing.T) { table.WriteString(measureSwitchovers(t, way)) })
	}
	t.Log(table.String())
}

func round(d time.Duration) time.Duration { return d.Round(d / 100).Round(100 * time.Microsecond) }

// startFigures is startFault as an operator gets it.
func startFigures(t *testing.T, setup faultSetup) *faultRig {
	t.Helper()
	setup.lines = append(setup.lines, "hold_primary = \"10s\"", "hold_replica = \"2s\"", "slow_start = \"30s\"")
	setup.interval = "1s"
	return startFault(t, setup)
}

func measureCrash(t *testing.T) (times []time.Duration) {
	r := startFigures(t, faultSetup{})
	for range 20 {
		at, seen := r.load.now(), r.p.logged()
		r.must(r.db1.Kill())
		last, _ := r.load.waitFenced(r.db1, at, patience)
		times = append(times, last-at)
		judged, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r.p.waitLogSince(seen, "server changed", map[string]any{"backend": "db1"})["time"]))
		r.must(err)
		ends := r.load.endings(r.db1, at)
		first := slices.MinFunc(ends, func(a, b *loadSession) int { return cmp.Compare(a.ended, b.ended) }).ended
		t.Logf("%d sessions: the first closed after %v, the last after %v; the program judged after %v",
			len(ends), round(first-at), round(last-at), round(judged.Sub(r.load.start)-at))
		r.must(r.db1.Start(testContext(t)))
		r.load.waitAll(r.db1)
	}
	r.finish(r.db1)
	return times
}

// measureCrashFirst lets the processors serve this session's processes, the program and its clients, first. Linux shares them by
// sessions (sched(7), autogroup), of which each process of PostgreSQL is one: all that a crash makes leave at once count as much as
// the program. Where it has a machine or a cgroup of its own, as a unit of systemd has, they do not.
func measureCrashFirst(t *testing.T) []time.Duration {
	const group = "/proc/self/autogroup"
	if err := os.WriteFile(group, []byte("-20"), 0); err != nil {
		t.Skip(err)
	}
	defer func() { _ = os.WriteFile(group, []byte("0"), 0) }()
	return measureCrash(t)
}

func measureFreeze(t *testing.T) (times []time.Duration) {
	r := startFigures(t, faultSetup{})
	for range 10 {
		at := r.load.now()
		r.must(r.db1.Freeze())
		last, _ := r.load.waitFenced(r.db1, at, patience)
		times = append(times, last-at)
		r.must(r.db1.Thaw())
		r.load.waitAll(r.db1)
	}
	r.finish(r.db1)
	return times
}

// measurePromotion measures from the moment at which the server itself says that it is no standby any more.
func measurePromotion(t *testing.T) (times []time.Duration) {
	r := startFigures(t, faultSetup{async: true, mix: map[clientKind]int{reading: 4}})
	ctx := testContext(t)
	from, to := r.db1, r.db2
	for range 10 {
		r.must(from.KillAll())
		served, dsn := make(chan time.Time, 1), r.p.dsn("app")
		go func() { served <- firstWrite(ctx, dsn) }()
		promoted, err := promotedAt(ctx, to)
		r.must(err)
		times = append(times, (<-served).Sub(promoted))
		for _, s := range r.c.Servers() {
			if s != to {
				r.must(s.Rebuild(ctx, to))
			}
		}
		from, to = to, from
	}
	r.finish(from)
	return times
}

// promotedAt promotes a standby and returns when it was one no more.
func promotedAt(ctx context.Context, s *pgcluster.Server) (time.Time, error) {
	conn, err := s.Conn(ctx, "postgres")
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = conn.Close(ctx) }()
	for sql := "SELECT pg_promote(wait => false)"; ; sql = "SELECT pg_is_in_recovery()" {
		answer, err := one(conn.Exec(ctx, sql))
		if err != nil || answer == "f" {
			return time.Now(), err
		}
	}
}

// firstWrite connects until a write is acknowledged, and returns when that was.
func firstWrite(ctx context.Context, dsn string) time.Time {
	for ctx.Err() == nil {
		conn, err := pgconn.Connect(ctx, dsn)
		if err != nil {
			continue
		}
		_, err = conn.Exec(ctx, "INSERT INTO ledger VALUES (gen_random_uuid())").ReadAll()
		at := time.Now()
		_ = conn.Close(ctx)
		if err == nil {
			return at
		}
	}
	return time.Now()
}

// switchovers is how many there are in measureSwitchovers.
const switchovers = 20

// switchoverWay is how the primary is changed in order.
type switchoverWay struct {
	name        string
	passthrough bool // the program logs in to the servers itself
	drain       bool // the server that is to stop is drained first
}

// measureSwitchovers changes the primary in order, over and over, while pgbench works with a new connection for each
// transaction, and counts what its clients are told.
func measureSwitchovers(t *testing.T, way switchoverWay) (rows string) {
	setup := faultSetup{async: true, mix: map[clientKind]int{writing: 4, reading: 4}, hcl: "drain_timeout = \"30s\"\n"}
	if way.passthrough {
		setup.lines = []string{"authentication = \"scram_passthrough\""}
		setup.prepare = func(c *pgcluster.Cluster) { installSecretFunction(t, c) }
	}
	r := startFigures(t, setup)
	b := &bench{script: tempFile(t, "insert.sql", []byte("INSERT INTO ledger VALUES (gen_random_uuid());\n")), dsn: r.p.dsn("app")}
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() { b.run(ctx) })
	}
	var times []time.Duration
	from, to := r.db1, r.db2
	for range switchovers {
		at := r.load.now()
		if way.drain {
			r.operate("drain", "--wait", from.Name)
		}
		r.switchover(from, to)
		r.load.waitWriters(to, 4)
		times = append(times, r.load.now()-at)
		if way.drain {
			r.operate("undrain", from.Name)
		}
		from, to = to, from
	}
	stop()
	work.Wait()
	r.load.mu.Lock()
	refused := len(r.load.refused)
	r.load.mu.Unlock()
	r.finish(from)
	slices.Sort(times)
	return fmt.Sprintf("| %s, until 4 clients write elsewhere | | %d | %v | %v |\n", way.name, switchovers,
		round(times[len(times)/2]), round(times[len(times)-1])) +
		fmt.Sprintf("\nOver %d %s pgbench made %d transactions, each on a connection of its own: %d connections failed (goal 0), "+
			"%d logins and %d transactions were under way on the server that stopped. Of the other clients %d logins failed (goal 0).\n",
			switchovers, way.name, b.done, b.failed, b.cut, b.broken, refused)
}

// operate runs a command of the program against the one that serves.
func (r *faultRig) operate(args ...string) {
	r.t.Helper()
	if out, errs, code := (command{args: append(args, "-c", filepath.Join(r.p.dir, "pgreplicaproxy.hcl"))}).run(r.t); code != 0 {
		r.t.Fatalf("%q: exit code %d: %s%s", args, code, out, errs)
	}
}

// bench runs pgbench with one client, again whenever it has given up.
type bench struct {
	script, dsn string

	mu sync.Mutex
	// done are transactions; failed are connections that nobody took, cut those whose server ended in the middle of their login, and
	// broken transactions.
	done, failed, cut, broken int
}

// What pgbench prints.
var (
	benchDone   = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	benchFailed = regexp.MustCompile(`aborted while establishing connection|connection to server .* failed`)
	benchCut    = regexp.MustCompile(`failed: FATAL:  (the connection to server .* was lost during the login|terminating connection)`)
)

func (b *bench) run(ctx context.Context) {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, "pgbench", "-n", "-C", "-c", "1", "-T", "5", "-f", b.script, b.dsn)
		cmd.Env = cleanEnvironment()
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		if match := benchDone.FindSubmatch(out); match != nil {
			n := 0
			_, _ = fmt.Sscan(string(match[1]), &n)
			b.done += n
		}
		switch {
		case benchCut.Match(out):
			b.cut++
		case benchFailed.Match(out):
			b.failed++
		case err != nil || strings.Contains(string(out), "aborted"):
			b.broken++
		}
		b.mu.Unlock()
	}
}
