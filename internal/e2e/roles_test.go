package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// changed is what the log says of a server that came to be this.
func changed(backend, role, status string) map[string]any {
	return map[string]any{"backend": backend, "role": role, "status": status}
}

// waitChange waits until the log says that a server came to be this, behind its first entries.
func (p *program) waitChange(seen int, backend, role, status string) map[string]any {
	p.t.Helper()
	return p.waitLogSince(seen, "server changed", changed(backend, role, status))
}

// portOf tells the server that a session is on by its port.
func portOf(t *testing.T, conn *pgconn.PgConn) string {
	t.Helper()
	return ask(t, conn, "SELECT inet_server_port()")
}

func port(s *pgcluster.Server) string { return fmt.Sprint(s.Port) }

// sessionOn opens sessions until one is on a server.
func sessionOn(t *testing.T, p *program, database string, s *pgcluster.Server) *pgconn.PgConn {
	t.Helper()
	for ctx := testContext(t); ctx.Err() == nil; {
		conn := connect(t, p.dsn(database))
		if portOf(t, conn) == port(s) {
			return conn
		}
		_ = conn.Close(ctx)
	}
	t.Fatalf("no session of %s comes to %s", database, s)
	return nil
}

// wantPlace opens some sessions, all of which must be on a server.
func wantPlace(t *testing.T, p *program, database string, s *pgcluster.Server) {
	t.Helper()
	for range 12 {
		conn := connect(t, p.dsn(database))
		if got := portOf(t, conn); got != port(s) {
			t.Errorf("session of %s is on port %s, want %s", database, got, s)
		}
		_ = conn.Close(testContext(t))
	}
}

// wantNowhere expects that no session is served, for a reason that holds these words.
func wantNowhere(t *testing.T, p *program, database string, words ...string) {
	t.Helper()
	response := connectError(t, p.dsn(database))
	if response.Code != "57P03" {
		t.Errorf("%s: error is %v, want SQLSTATE 57P03", database, response)
	}
	for _, word := range words {
		if !strings.Contains(response.Message, word) {
			t.Errorf("%s: message is %q, want %q in it", database, response.Message, word)
		}
	}
}

// fenced is what a session is told that may not stay on its server.
func fenced(s *pgcluster.Server, target, detail string) refusal {
	return refusal{
		"57P01", fmt.Sprintf("terminating connection because server %q can no longer serve as %s", s.Name, target),
		"It is " + detail + ".", "Reconnect to reach the right server.",
	}
}

// wantEnd expects the end of a session whose server has died: by the server's last words, the proxy's, or none.
func wantEnd(t *testing.T, name string, err error) {
	t.Helper()
	var response *pgconn.PgError
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &response) && response.Code != "57P01" {
		t.Errorf("%s session ended with %v, want SQLSTATE 57P01 or end of file", name, err)
	}
}

// endOf waits for the end of an idle session.
func endOf(t *testing.T, conn *pgconn.PgConn) error {
	t.Helper()
	for {
		if _, err := conn.ReceiveMessage(testContext(t)); err != nil {
			return err
		}
	}
}

// eachVersion runs a test with a cluster of its own of each version.
func eachVersion(t *testing.T, standbys int, test func(t *testing.T, c *pgcluster.Cluster)) {
	t.Helper()
	for _, version := range versions {
		t.Run(fmt.Sprintf("PostgreSQL %d", version), func(t *testing.T) {
			test(t, startCluster(t, pgcluster.Config{Installation: installation(t, version), Standbys: standbys}))
		})
	}
}

// refuseMonitor makes a server refuse the monitor, and nobody else, until the function returned is called.
func refuseMonitor(t *testing.T, s *pgcluster.Server) (allow func()) {
	t.Helper()
	file := filepath.Join(s.DataDir, "pg_hba.conf")
	hba, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	set := func(content string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(content), 0o600), s.Reload()); err != nil {
			t.Fatal(err)
		}
		waitTrue(t, s, "SELECT pg_conf_load_time() > (pg_stat_file('pg_hba.conf')).modification")
	}
	set("host all " + monitorUser + " all reject\n" + string(hba))
	return func() { set(string(hba)) }
}

// Roles come from the servers. One that does not let the monitor in is unknown, and gets no session though it would take
// one; it is known once it does.
func TestRoles(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	db1, db2, db3 := c.Server("db1"), c.Server("db2"), c.Server("db3")
	allow := refuseMonitor(t, db3)
	p := serve(t, listenHCL+clusterHCL(c))
	p.waitChange(0, "db1", "primary", "up")
	p.waitChange(0, "db2", "replica", "up")
	if got, want := p.waitChange(0, "db3", "unknown", "misconfigured")["detail"], "refuses the monitor's login (28000)"; got != want {
		t.Errorf("the log says %q of db3, want %q", got, want)
	}
	direct := connect(t, fmt.Sprintf("postgresql://%s:%s@%s/app", appUser, appPassword, serverAddress(db3)))
	if got := portOf(t, direct); got != port(db3) {
		t.Errorf("direct session is on port %s", got)
	}
	wantPlace(t, p, "app", db1)
	wantPlace(t, p, "app_replica", db2)

	seen := p.logged()
	allow()
	p.waitChange(seen, "db3", "replica", "up")
	sessionOn(t, p, "app_replica", db3)
	wantPlace(t, p, "app", db1)
}

// A standby that dies takes its own sessions along and no others; until it is back the other one serves.
func TestStandbyKilled(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	db1, db2, db3 := c.Server("db1"), c.Server("db2"), c.Server("db3")
	p := serve(t, listenHCL+clusterHCL(c))
	others := []*pgconn.PgConn{sessionOn(t, p, "app", db1), sessionOn(t, p, "app_replica", db2)}
	idle, querying := sessionOn(t, p, "app_replica", db3), sessionOn(t, p, "app_replica", db3)
	query := startQuery(testContext(t), querying, endless("killed"))
	waitActive(t, db3, "killed")

	seen := p.logged()
	if err := db3.KillAll(); err != nil {
		t.Fatal(err)
	}
	wantPlace(t, p, "app_replica", db2) // also while the monitor may not know yet
	wantEnd(t, "idle", endOf(t, idle))
	wantEnd(t, "querying", <-query)
	p.waitChange(seen, "db3", "unknown", "down")
	for _, conn := range others {
		ask(t, conn, "SELECT 1")
	}
	seen = p.logged()
	if err := db3.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db3", "replica", "up")
	sessionOn(t, p, "app_replica", db3)
	for _, conn := range others {
		ask(t, conn, "SELECT 1")
	}
}

// A server that falls silent says nothing to its clients, so the program does: to idle sessions and to those that wait for
// a result. Thawed it serves again.
func TestFrozenServer(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	p := serve(t, listenHCL+clusterHCL(c))
	for i, test := range []struct{ database, role string }{{"app", "primary"}, {"app_replica", "replica"}} {
		t.Run(test.role, func(t *testing.T) {
			frozen, other := c.Servers()[i], sessionOn(t, p, []string{"app_replica", "app"}[i], c.Servers()[1-i])
			idle, querying := connect(t, p.dsn(test.database)), connect(t, p.dsn(test.database))
			query := startQuery(testContext(t), querying, endless("frozen"))
			waitActive(t, frozen, "frozen")

			seen := p.logged()
			if err := frozen.Freeze(); err != nil {
				t.Fatal(err)
			}
			want := fenced(frozen, test.role, "unknown now: no answer")
			want.check(t, told(t, idle))
			want.check(t, toldInQuery(t, query))
			p.waitChange(seen, frozen.Name, "unknown", "silent")
			wantNowhere(t, p, test.database, frozen.Name+" is unknown (no answer)")
			ask(t, other, "SELECT 1")

			seen = p.logged()
			if err := frozen.Thaw(); err != nil {
				t.Fatal(err)
			}
			p.waitChange(seen, frozen.Name, test.role, "up")
			wantPlace(t, p, test.database, frozen)
			ask(t, other, "SELECT 1")
		})
	}
}

// A login that meets a standby which has just fallen silent goes on to the next one: the client has sent nothing yet that
// could not be said again.
func TestLoginAtFrozenStandby(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	frozen := backend{"db3", serverAddress(c.Server("db3")), 1_000_000} // is tried first
	p := serve(t, listenHCL+backendsHCL(nil, backend{"db1", serverAddress(c.Server("db1")), 1}, backend{"db2", serverAddress(c.Server("db2")), 1}, frozen))
	if err := c.Server("db3").Freeze(); err != nil {
		t.Fatal(err)
	}
	if got, want := portOf(t, connect(t, p.dsn("app_replica"))), port(c.Server("db2")); got != want {
		t.Errorf("session is on port %s, want %s", got, want)
	}
}

// The whole story of a primary that hangs: a standby is promoted in its place; when it comes back there are two, of which
// neither is served; when one is gone the other is; and the old one returns as a standby.
func TestFrozenPrimaryReturns(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	ctx, db1, db2, db3 := testContext(t), c.Server("db1"), c.Server("db2"), c.Server("db3")
	p := serve(t, listenHCL+clusterHCL(c))
	old := connect(t, p.dsn("app"))
	promoted, reader := sessionOn(t, p, "app_replica", db2), sessionOn(t, p, "app_replica", db3)

	if err := db1.Freeze(); err != nil {
		t.Fatal(err)
	}
	fenced(db1, "primary", "unknown now: no answer").check(t, told(t, old))
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	fenced(db2, "replica", "primary now").check(t, told(t, promoted))
	p.waitChange(0, "db2", "primary", "up")
	wantPlace(t, p, "app", db2)
	wantPlace(t, p, "app_replica", db3)

	session, seen := connect(t, p.dsn("app")), p.logged()
	if err := db1.Thaw(); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db1", "unknown", "conflict")
	p.waitChange(seen, "db2", "unknown", "conflict")
	fenced(db2, "primary", "unknown now: claims to be primary beside db1").check(t, told(t, session))
	wantNowhere(t, p, "app", "db1 is unknown (claims to be primary beside db2)", "db2 is unknown (claims to be primary beside db1)")
	wantPlace(t, p, "app_replica", db3)

	seen = p.logged()
	if err := db1.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db2", "primary", "up")
	wantPlace(t, p, "app", db2)
	seen = p.logged()
	if err := db1.Rebuild(ctx, db2); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db1", "replica", "up")
	sessionOn(t, p, "app_replica", db1)
	wantPlace(t, p, "app", db2)
	ask(t, reader, "SELECT 1")
}

// The sessions of a standby that is promoted move on as soon as they are idle, a transaction may end before; but not
// after drain_timeout.
func TestPromotedReplica(t *testing.T) { eachVersion(t, 1, testPromotedReplica) }

func testPromotedReplica(t *testing.T, c *pgcluster.Cluster) {
	ctx, db1, db2 := testContext(t), c.Server("db1"), c.Server("db2")
	patient := serve(t, "drain_timeout = \"1h\"\n"+listenHCL+clusterHCL(c))
	hasty := serve(t, "drain_timeout = \"300ms\"\n"+listenHCL+clusterHCL(c))
	idle := connect(t, patient.dsn("app_replica"))
	querying := connect(t, patient.dsn("app_replica"))
	query := startQuery(ctx, querying, endless("promoted"))
	waitActive(t, db2, "promoted")
	transaction, unending := connect(t, patient.dsn("app_replica")), connect(t, hasty.dsn("app_replica"))
	ask(t, transaction, "BEGIN; SELECT 1")
	ask(t, unending, "BEGIN; SELECT 1")

	if err := db1.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	want := fenced(db2, "replica", "primary now")
	want.check(t, told(t, idle))
	want.check(t, told(t, unending))
	patient.waitChange(0, "db2", "primary", "up")
	wantNowhere(t, patient, "app_replica", "db2 is primary")
	wantPlace(t, patient, "app", db2)

	for range 3 {
		ask(t, transaction, "SELECT count(*) FROM pg_class")
	}
	ask(t, transaction, "COMMIT")
	want.check(t, told(t, transaction))
	if err := db2.Exec(ctx, "postgres", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%AS promoted'"); err != nil {
		t.Fatal(err)
	}
	checkState(t, <-query, "57014") // the answer comes whole, and then the end
	want.check(t, told(t, querying))
}

// A server of another cluster gets no session under whatever name, neither beside the right ones nor when it is the only
// primary left. Where it cannot be told which cluster is the right one, none is served.
func TestForeignServer(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	other := startCluster(t, pgcluster.Config{})
	db1, db2 := c.Server("db1"), c.Server("db2")
	stranger := backend{"db3", serverAddress(other.Servers()[0]), 1000}
	p := serve(t, listenHCL+backendsHCL(nil, backend{"db1", serverAddress(db1), 1}, backend{"db2", serverAddress(db2), 1}, stranger))
	p.waitChange(0, "db1", "primary", "up")
	entry := p.waitChange(0, "db3", "unknown", "foreign")
	identifier, err := other.Servers()[0].QueryString(testContext(t), "postgres", "SELECT system_identifier FROM pg_control_system()")
	if err != nil || entry["detail"] != "belongs to another cluster" || entry["system_identifier"] != identifier || entry["level"] != "WARN" {
		t.Errorf("the log says %v, want a warning with system identifier %s (%v)", entry, identifier, err)
	}
	wantPlace(t, p, "app", db1)
	wantPlace(t, p, "app_replica", db2)

	undecided := serve(t, listenHCL+backendsHCL(nil, backend{"db2", serverAddress(db2), 1}, stranger))
	for _, database := range []string{"app", "app_replica"} {
		wantNowhere(t, undecided, database, "db2 is unknown (the servers belong to different clusters)", "db3 is unknown")
	}

	seen := p.logged()
	if err := db1.Stop(testContext(t), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db1", "unknown", "down")
	wantNowhere(t, p, "app", "db3 is unknown (belongs to another cluster)")
	wantPlace(t, p, "app_replica", db2)
}

// Without the right password the monitor knows nothing, so nobody is served, and the log says why. When it is mended on the
// servers, the next question finds out. A password that is changed later ends no session and keeps nobody out for a while.
func TestMonitorPassword(t *testing.T) {
	c := sharedCluster(t, versions[0])
	setPassword := func(password string) {
		t.Helper()
		onAll(t, c, "ALTER ROLE watcher PASSWORD '"+password+"'")
	}
	onAll(t, c, "CREATE ROLE watcher LOGIN PASSWORD 'not-what-the-file-says'")
	t.Cleanup(func() { onAll(t, c, "DROP ROLE watcher") })
	p := serve(t, listenHCL+strings.Replace(clusterHCL(c), "monitor {\n", "monitor {\n    user = \"watcher\"\n", 1))
	const detail = "refuses the monitor's login (28P01)"
	for _, s := range c.Servers() {
		entry := p.waitChange(0, s.Name, "unknown", "misconfigured")
		if entry["detail"] != detail || !strings.Contains(fmt.Sprint(entry["error"]), `password authentication failed for user "watcher"`) {
			t.Errorf("the log says %v", entry)
		}
	}
	for _, database := range []string{"app", "app_replica"} {
		wantNowhere(t, p, database, "db1 is unknown ("+detail+"), db2 is unknown ("+detail+")")
	}

	seen := p.logged()
	setPassword(monitorPassword)
	p.waitChange(seen, "db1", "primary", "up")
	p.waitChange(seen, "db2", "replica", "up")
	p.waitChange(seen, "db3", "replica", "up")
	session := connect(t, p.dsn("app"))

	seen = p.logged()
	setPassword("changed-and-not-told")
	const endMonitor = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'watcher'"
	if err := c.Servers()[0].Exec(testContext(t), "postgres", endMonitor); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db1", "primary", "misconfigured")
	ask(t, session, "SELECT 1")
	connect(t, p.dsn("app"))
	setPassword(monitorPassword)
	p.waitChange(seen, "db1", "primary", "up")
	ask(t, session, "SELECT 1")
}

// An application goes on writing while its primary dies and another takes over. It never writes on two servers at once.
func TestPrimaryKilled(t *testing.T) { eachVersion(t, 2, testPrimaryKilled) }

func testPrimaryKilled(t *testing.T, c *pgcluster.Cluster) {
	ctx, db1, db2, db3 := testContext(t), c.Server("db1"), c.Server("db2"), c.Server("db3")
	p := serve(t, listenHCL+clusterHCL(c))
	w := startWriters(t, p, c)
	idle, seen := connect(t, p.dsn("app")), p.logged()

	if err := db1.KillAll(); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, "idle", endOf(t, idle))
	p.waitChange(seen, "db1", "unknown", "down")
	wantNowhere(t, p, "app", "db1 is unknown (connection refused), db2 is replica, db3 is replica")
	w.waitRefused()
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	w.waitWritten(db2)
	p.waitChange(seen, "db2", "primary", "up")
	w.check(db1, db2)
	if err := db3.Follow(ctx, db2); err != nil {
		t.Fatal(err)
	}

	// The next one loses its postmaster only: for a while its orphans go on with their sessions.
	if err := errors.Join(db2.Kill(), db3.Promote(ctx)); err != nil {
		t.Fatal(err)
	}
	w.waitWritten(db3)
	w.stop()
	w.check(db2, db3)
}

// Two primaries at once: neither is served, and what was written before the conflict was written on the first only.
func TestTwoPrimaries(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	ctx, db1, db2, db3 := testContext(t), c.Server("db1"), c.Server("db2"), c.Server("db3")
	p := serve(t, listenHCL+clusterHCL(c))
	w := startWriters(t, p, c)
	idle, reader, other := connect(t, p.dsn("app")), sessionOn(t, p, "app_replica", db2), sessionOn(t, p, "app_replica", db3)

	seen := p.logged()
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*pgcluster.Server{db1, db2} {
		if entry := p.waitChange(seen, s.Name, "unknown", "conflict"); entry["level"] != "WARN" || entry["timeline"] == nil {
			t.Errorf("the log says %v, want a warning with the timeline", entry)
		}
	}
	fenced(db1, "primary", "unknown now: claims to be primary beside db2").check(t, told(t, idle))
	if got := told(t, reader); got.Code != "57P01" {
		t.Errorf("reader is told %v, want SQLSTATE 57P01", got)
	}
	wantNowhere(t, p, "app", "db1 is unknown (claims to be primary beside db2)", "db2 is unknown (claims to be primary beside db1)")
	wantPlace(t, p, "app_replica", db3)
	ask(t, other, "SELECT 1")
	w.waitRefused()
	before := len(w.rows(db1))

	if err := db1.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	w.waitWritten(db2)
	w.stop()
	if after := len(w.rows(db1)); after != before {
		t.Errorf("%d rows were written on db1 during the conflict", after-before)
	}
	w.check(db1, db2)
}

// writers insert rows through the program, each on a session of its own that it opens again whenever it ends.
type writers struct {
	t     *testing.T
	ctx   context.Context
	stop  func()
	dsn   string
	clock atomic.Int64 // counts what happens, so that it can be told what was first

	mu      sync.Mutex
	written map[string]*[writerCount][]write // by the port of the server that acknowledged
	opened  map[string]int64                 // when the first session was open that wrote there
	refused [writerCount]int64               // when each was last turned away
	wrong   []error
}

const writerCount = 8

// write is a row that was acknowledged.
type write struct {
	id   string
	sent int64
}

// startWriters makes the table and starts writing; it returns once all write.
func startWriters(t *testing.T, p *program, c *pgcluster.Cluster) *writers {
	t.Helper()
	primary := c.Servers()[0]
	create := "CREATE TABLE writes (id text PRIMARY KEY, port int DEFAULT inet_server_port()); ALTER TABLE writes OWNER TO " + appUser
	if err := primary.Exec(testContext(t), "app", create); err != nil {
		t.Fatal(err)
	}
	w := &writers{t: t, dsn: p.dsn("app"), written: make(map[string]*[writerCount][]write), opened: make(map[string]int64)}
	ctx, cancel := context.WithCancel(testContext(t))
	w.ctx = ctx
	var work sync.WaitGroup
	for i := range writerCount {
		work.Go(func() { w.run(i) })
	}
	w.stop = func() { cancel(); work.Wait() }
	t.Cleanup(w.stop)
	w.waitWritten(primary)
	return w
}

// pace keeps the writers from taking the whole machine.
const pace = 2 * time.Millisecond

func (w *writers) run(number int) {
	for n := 0; w.ctx.Err() == nil; time.Sleep(pace) {
		conn, err := pgconn.Connect(w.ctx, w.dsn)
		if err != nil {
			w.turnedAway(number, err)
			continue
		}
		opened := w.clock.Add(1)
		for ; err == nil; n++ {
			err = w.write(conn, number, n, opened)
			time.Sleep(pace)
		}
		_ = conn.Close(w.ctx)
	}
}

// write inserts one row and notes what became of it.
func (w *writers) write(conn *pgconn.PgConn, number, n int, opened int64) error {
	one := write{id: fmt.Sprintf("%d-%d", number, n), sent: w.clock.Add(1)}
	sql := "INSERT INTO writes VALUES ('" + one.id + "') RETURNING port, pg_is_in_recovery()"
	results, err := conn.Exec(w.ctx, sql).ReadAll()
	w.mu.Lock()
	defer w.mu.Unlock()
	var response *pgconn.PgError
	switch {
	case errors.As(err, &response) && response.Severity == "ERROR": // 25006: the session is on a standby
		w.wrong = append(w.wrong, err)
		return err
	case err != nil:
		return err
	}
	row := results[0].Rows[0]
	if string(row[1]) != "f" {
		w.wrong = append(w.wrong, fmt.Errorf("row %s was written during recovery", one.id))
	}
	at := string(row[0])
	if w.written[at] == nil {
		w.written[at], w.opened[at] = new([writerCount][]write), opened
	}
	w.written[at][number] = append(w.written[at][number], one)
	w.opened[at] = min(w.opened[at], opened)
	return nil
}

// turnedAway notes a connection that was refused.
func (w *writers) turnedAway(number int, err error) {
	var response *pgconn.PgError
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.As(err, &response) && response.Code == "57P03" {
		w.refused[number] = w.clock.Add(1)
	}
}

// wait waits for a condition, which is asked under the lock.
func (w *writers) wait(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		ok := done()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("waited in vain until " + what)
		}
	}
}

// waitWritten waits until each has written on a server.
func (w *writers) waitWritten(s *pgcluster.Server) {
	w.t.Helper()
	w.wait("all write on "+s.Name, func() bool {
		rows := w.written[port(s)]
		return rows != nil && !slices.ContainsFunc(rows[:], func(rows []write) bool { return len(rows) == 0 })
	})
}

// waitRefused waits until each is turned away, and so has no session any more.
func (w *writers) waitRefused() {
	w.t.Helper()
	now := w.clock.Add(1)
	w.wait("all are refused", func() bool { return slices.Min(w.refused[:]) > now })
}

// rows are those that a server acknowledged.
func (w *writers) rows(s *pgcluster.Server) []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written[port(s)] == nil {
		return nil
	}
	return slices.Concat(w.written[port(s)][:]...)
}

// check looks for rows that were written on the old server after the new one was served, and for rows that the new server
// acknowledged and does not have. Rows of the old one may be missing there, since replication was not synchronous.
func (w *writers) check(old, now *pgcluster.Server) {
	w.t.Helper()
	before, after := w.rows(old), w.rows(now)
	w.mu.Lock()
	opened, wrong := w.opened[port(now)], errors.Join(w.wrong...)
	w.mu.Unlock()
	if wrong != nil {
		w.t.Error(wrong)
	}
	for _, row := range before {
		if row.sent > opened {
			w.t.Errorf("row %s was written on %s after %s was served", row.id, old.Name, now.Name)
		}
	}
	all, err := now.QueryString(testContext(w.t), "app", "SELECT string_agg(id, ' ') FROM writes")
	if err != nil {
		w.t.Fatal(err)
	}
	stored := strings.Fields(all)
	slices.Sort(stored)
	for _, row := range after {
		if _, ok := slices.BinarySearch(stored, row.id); !ok {
			w.t.Errorf("row %s was acknowledged by %s and is not there", row.id, now.Name)
		}
	}
}
