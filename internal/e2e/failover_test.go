package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The whole story of a primary that hangs: a standby is promoted in its place; when it comes back it is stale, and the new one
// goes on; and when that is gone the old one is not believed even then. It returns as a standby.
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
	p.waitLog("server changed", map[string]any{"backend": "db3", "lagging": true}) // it still receives what the cluster has left
	seen := p.logged()
	if err := db3.Follow(ctx, db2); err != nil {
		t.Fatal(err)
	}
	p.waitLogSince(seen, "server changed", map[string]any{"backend": "db3", "lagging": false})
	wantPlace(t, p, "app_replica", db3)

	session := connect(t, p.dsn("app"))
	seen = p.logged()
	if err := db1.Thaw(); err != nil {
		t.Fatal(err)
	}
	const stale = "claims to be primary on timeline 1, which the cluster has left for 2"
	if entry := p.waitChange(seen, "db1", "unknown", "quarantined"); entry["level"] != "ERROR" || entry["detail"] != stale {
		t.Errorf("the log says %v", entry)
	}
	ask(t, session, "SELECT 1")
	wantPlace(t, p, "app", db2)
	wantPlace(t, p, "app_replica", db3)

	seen = p.logged()
	if err := db2.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db2", "unknown", "down")
	wantNowhere(t, p, "app", "db1 is unknown ("+stale+")", "db2 is unknown")
	if err := db2.Start(ctx); err != nil {
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

// While it cannot be told which cluster is the right one none is served, until the operator says so. From then on a server of
// another cluster gets no session under whatever name, neither beside the right ones nor when it is the only primary left.
func TestForeignServer(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	other := startCluster(t, pgcluster.Config{})
	db1, db2 := c.Server("db1"), c.Server("db2")
	stranger := backend{"db3", serverAddress(other.Servers()[0]), 1000}
	servers := []backend{{"db1", serverAddress(db1), 1}, {"db2", serverAddress(db2), 1}, stranger}
	p := serve(t, listenHCL+backendsHCL(nil, servers...))
	for _, database := range []string{"app", "app_replica"} {
		wantNowhere(t, p, database, "db2 is unknown (the servers belong to different clusters)", "db3 is unknown")
	}
	p.operate(t, "accept", "main", "db1")
	p.waitChange(0, "db1", "primary", "up")
	entry := p.waitChange(0, "db3", "unknown", "foreign")
	identifier, err := other.Servers()[0].QueryString(testContext(t), "postgres", "SELECT system_identifier FROM pg_control_system()")
	if err != nil || entry["system_identifier"] != identifier || entry["level"] != "WARN" {
		t.Errorf("the log says %v, want a warning with system identifier %s (%v)", entry, identifier, err)
	}
	wantPlace(t, p, "app", db1)
	wantPlace(t, p, "app_replica", db2)

	identifier, err = db1.QueryString(testContext(t), "postgres", "SELECT system_identifier FROM pg_control_system()")
	if err != nil {
		t.Fatal(err)
	}
	told := serve(t, listenHCL+backendsHCL([]string{"system_identifier = " + strconv.Quote(identifier)}, servers...))
	wantPlace(t, told, "app", db1) // without another word
	told.waitChange(0, "db3", "unknown", "foreign")

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

// Two primaries at once, and the operator wants neither served: what was written before the conflict was written on the first
// only.
func TestTwoPrimaries(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	ctx, db1, db2, db3 := testContext(t), c.Server("db1"), c.Server("db2"), c.Server("db3")
	p := serve(t, listenHCL+onConflict("refuse", clusterHCL(c)))
	w := startWriters(t, p, c)
	idle, reader, other := connect(t, p.dsn("app")), sessionOn(t, p, "app_replica", db2), sessionOn(t, p, "app_replica", db3)

	seen := p.logged()
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*pgcluster.Server{db1, db2} {
		if entry := p.waitChange(seen, s.Name, "unknown", "conflict"); entry["level"] != "ERROR" || entry["timeline"] == nil {
			t.Errorf("the log says %v, want an error with the timeline", entry)
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

// onConflict puts the setting into a cluster.
func onConflict(word, hcl string) string {
	return strings.Replace(hcl, "monitor {\n", "on_conflict = \""+word+"\"\n  monitor {\n", 1)
}

// A standby is promoted beside the primary, and the other one tells which to believe: the old one as long as it streams from
// that. When nobody does any more the new one is served, after the last writer has left the old one.
func TestPromotedBesideThePrimary(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	ctx, db1, db2, db3 := testContext(t), c.Server("db1"), c.Server("db2"), c.Server("db3")
	p := serve(t, listenHCL+clusterHCL(c))
	w := startWriters(t, p, c)
	idle := connect(t, p.dsn("app"))

	seen := p.logged()
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	const lost = "claims to be primary on timeline 2, but db1 is: the standbys follow it"
	if entry := p.waitChange(seen, "db2", "unknown", "quarantined"); entry["level"] != "ERROR" || entry["detail"] != lost {
		t.Errorf("the log says %v", entry)
	}
	ask(t, idle, "SELECT 1")
	wantPlace(t, p, "app", db1)

	if err := db3.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if got := told(t, idle); got.Code != "57P01" {
		t.Errorf("idle is told %v, want SQLSTATE 57P01", got)
	}
	if entry := p.waitChange(seen, "db2", "primary", "up"); entry["because"] != "it was promoted, and db1 has no standby left" {
		t.Errorf("the log says %v", entry)
	}
	w.waitWritten(db2)
	w.stop()
	w.check(db1, db2)
	wantPlace(t, p, "app", db2)
}

// What was decided outlives the program: a stale primary is not believed by the next one either, until the operator says so.
func TestStalePrimaryAfterRestart(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	ctx, db1, db2 := testContext(t), c.Server("db1"), c.Server("db2")
	p := serve(t, listenHCL+clusterHCL(c))
	if err := errors.Join(db1.Stop(ctx, pgcluster.Fast), db2.Promote(ctx)); err != nil {
		t.Fatal(err)
	}
	p.waitChange(0, "db2", "primary", "up")
	if err := errors.Join(db2.Stop(ctx, pgcluster.Fast), db1.Start(ctx)); err != nil {
		t.Fatal(err)
	}

	p = p.restart(t)
	p.waitChange(0, "db1", "unknown", "quarantined")
	wantNowhere(t, p, "app", "db1 is unknown (claims to be primary on timeline 1, which the cluster has left for 2)")
	p.operate(t, "accept", "main", "db1")
	p.waitChange(0, "db1", "primary", "up")
	wantPlace(t, p, "app", db1)

	seen := p.logged()
	if err := db2.Start(ctx); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db2", "unknown", "quarantined")
	wantPlace(t, p, "app", db1)
}

// operate runs a command of the operator against the program.
func (p *program) operate(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(binary, append(args, "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl"))...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
