package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// wantClaim waits until the log says that a server which claims to be the primary is not believed, as a warning or worse.
func (r *faultRig) wantClaim(seen int, s *pgcluster.Server, status string) {
	r.t.Helper()
	entry := r.p.waitChange(seen, s.Name, "unknown", status)
	if entry["level"] != "WARN" && entry["level"] != "ERROR" || entry["timeline"] == nil || entry["detail"] == nil {
		r.t.Errorf("the log says %v, want a warning with the timeline and why", entry)
	}
}

// wantUnused expects that nobody ever came to a server since a time.
func (r *faultRig) wantUnused(s *pgcluster.Server) {
	r.t.Helper()
	if got, err := s.QueryString(testContext(r.t), "app", "SELECT count(*) FROM ledger WHERE id LIKE '"+r.load.mark+
		"-%' AND at > pg_postmaster_start_time()"); err != nil || got != "0" {
		r.t.Errorf("%s rows were written on %s (%v)", got, s.Name, err)
	}
	r.load.mu.Lock()
	defer r.load.mu.Unlock()
	if n := r.load.open(s); n != 0 {
		r.t.Errorf("%d sessions are on %s", n, s.Name)
	}
}

// Somebody promotes a standby while all is well, and the other standby stays with the old primary: so does the program, and
// nobody on it notices anything.
func TestFault10PromoteBesidePrimary(t *testing.T) {
	r := startFault(t, faultSetup{})
	at, seen := r.load.now(), r.p.logged()
	r.must(r.db2.Promote(testContext(t)))
	r.wantClaim(seen, r.db2, "quarantined")
	r.load.waitAll(r.db1)
	for _, ended := range r.load.endings(r.db1, at) {
		t.Errorf("a %s session ended: %v", ended.kind, ended.err)
	}
	wantPlace(t, r.p, "app", r.db1)
	r.finish(r.db1)
}

// The other standby goes over to the new one, which is then believed: the old one's sessions end first. What it has written
// beside the new one is lost, which no proxy can mend.
func TestFault11StandbyChangesSides(t *testing.T) {
	r := startFault(t, faultSetup{async: true})
	at, seen := r.load.now(), r.p.logged()
	r.must(r.db2.Promote(testContext(t)))
	r.wantClaim(seen, r.db2, "quarantined")
	seen = r.p.logged()
	r.must(r.db3.Rebuild(testContext(t), r.db2))
	r.p.waitChange(seen, "db2", "primary", "up")
	r.fenced(r.db1, at, silenceGoal)
	r.load.waitAll(r.db2)
	r.finish(r.db2, r.db1)
}

// Of two servers the standby is promoted while the primary lives: that looks like any failover, and the new one is believed,
// or, where the operator says so, the old one.
func TestFault12TwoServers(t *testing.T) {
	for _, test := range []struct {
		onConflict string
		stays      bool
	}{{"auto", false}, {"keep", true}} {
		t.Run(test.onConflict, func(t *testing.T) {
			r := startFault(t, faultSetup{standbys: 1, async: true, mix: map[clientKind]int{
				writing: 8, idling: 4, inTransaction: 4, sleeping: 4, burning: 2,
			}, lines: []string{"on_conflict = \"" + test.onConflict + "\""}})
			at, seen := r.load.now(), r.p.logged()
			r.must(r.db2.Promote(testContext(t)))
			if test.stays {
				r.wantClaim(seen, r.db2, "quarantined")
				r.load.waitAll(r.db1)
				r.finish(r.db1)
				return
			}
			r.fenced(r.db1, at, silenceGoal)
			r.load.waitAll(r.db2)
			r.finish(r.db2, r.db1)
		})
	}
}

// resurrect fails over from db1 and brings it back with more of its own history than the new primary has.
func (r *faultRig) resurrect() (now, other *pgcluster.Server) {
	r.t.Helper()
	ctx := testContext(r.t)
	r.must(r.db1.KillAll())
	now, other = r.promoteBest(r.db2, r.db3)
	r.load.waitAll(now)
	seen := r.p.logged()
	r.must(r.db1.Start(ctx))
	r.must(r.db1.Exec(ctx, "postgres", "SET synchronous_commit = local; CREATE TABLE ahead AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)"))
	waitTrue(r.t, r.db1, fmt.Sprintf("SELECT pg_current_wal_lsn() > '%s'", r.position(now)))
	r.wantClaim(seen, r.db1, "quarantined")
	return now, other
}

// position is the end of a primary's log.
func (r *faultRig) position(s *pgcluster.Server) string {
	r.t.Helper()
	lsn, err := s.QueryString(testContext(r.t), "postgres", "SELECT pg_current_wal_lsn()")
	r.must(err)
	return lsn
}

// A primary that was replaced comes back, further in its own log than the new one. It gets no session.
func TestFault13OldPrimaryReturns(t *testing.T) {
	r := startFault(t, faultSetup{})
	now, _ := r.resurrect()
	r.load.waitAll(now)
	r.wantUnused(r.db1)
	r.finish(now)
}

// The same, and the program is started anew while the true primary is down. It remembers. A program without memory cannot
// know: it says which primary it takes.
func TestFault14OldPrimaryAlone(t *testing.T) {
	r := startFault(t, faultSetup{})
	now, _ := r.resurrect()
	r.must(now.Stop(testContext(t), pgcluster.Fast))
	r.restart(os.Interrupt)
	r.wantClaim(0, r.db1, "quarantined")
	r.wantNoLogin("app")
	r.must(now.Start(testContext(t)))
	r.load.waitAll(now)
	r.wantUnused(r.db1)
	r.finish(now)

	r.must(now.Stop(testContext(t), pgcluster.Fast))
	forgetful := serve(t, listenHCL+clusterHCL(r.c))
	forgetful.waitChange(0, "db1", "primary", "up")
	wantPlace(t, forgetful, "app", r.db1)
}

// Both standbys are promoted, to the same timeline. The first is taken; the other one only when the first is gone.
func TestFault15BothPromoted(t *testing.T) {
	r := startFault(t, faultSetup{async: true})
	ctx := testContext(t)
	r.must(r.db1.KillAll())
	r.must(r.db2.Promote(ctx))
	r.load.waitWriters(r.db2, loadMix[writing])
	seen := r.p.logged()
	r.must(r.db3.Promote(ctx))
	r.wantClaim(seen, r.db3, "quarantined")
	r.load.waitWriters(r.db2, loadMix[writing])
	seen = r.p.logged()
	r.must(r.db2.KillAll())
	r.p.waitChange(seen, "db3", "primary", "up")
	r.load.waitWriters(r.db3, loadMix[writing])
	r.finish(r.db3, r.db1, r.db2)
}

// A copy of the primary is started at the address of a standby, as a primary: same cluster, same timeline. It gets no session.
func TestFault16Clone(t *testing.T) {
	r := startFault(t, faultSetup{})
	ctx, at, seen := testContext(t), r.load.now(), r.p.logged()
	r.must(r.db3.Stop(ctx, pgcluster.Fast))
	r.must(os.Remove(filepath.Join(r.db3.DataDir, "standby.signal")))
	r.must(r.db3.Start(ctx))
	r.wantClaim(seen, r.db3, "quarantined")
	r.load.waitAll(r.db1)
	for _, ended := range r.load.endings(r.db1, at) {
		t.Errorf("a %s session ended: %v", ended.kind, ended.err)
	}
	r.wantUnused(r.db3)
	r.finish(r.db1)
}

// A logical replica stands in the list: it says of itself that it is no standby, it even has the rows, and it is another
// cluster. It gets no session, also when it is the only one left that could be the primary.
func TestFault17AnotherCluster(t *testing.T) {
	r := startServers(t, faultSetup{standbys: 1, settings: map[string]string{"wal_level": "logical"}})
	ctx := testContext(t)
	stranger := startCluster(t, pgcluster.Config{}).Servers()[0]
	for _, each := range []struct {
		server *pgcluster.Server
		sql    string
	}{
		{r.db1, ledgerSQL},
		{stranger, ledgerSQL},
		{r.db1, "CREATE PUBLICATION everything FOR ALL TABLES"},
		{stranger, fmt.Sprintf("CREATE SUBSCRIPTION everything CONNECTION 'host=%s port=%d dbname=app user=%s password=%s' PUBLICATION everything",
			r.db1.Host, r.db1.Port, pgcluster.SuperuserName, r.c.SuperuserPassword)},
	} {
		r.must(each.server.Exec(ctx, "app", each.sql))
	}
	r.serve(faultSetup{})
	r.load = startMix(t, r.p, r.db1, map[clientKind]int{writing: 8, idling: 4, reading: 4})
	const beside = "backend \"db2\" {"
	r.reconfigure(beside, fmt.Sprintf("backend \"db3\" { address = %q }\n  ", serverAddress(stranger))+beside)
	r.p.waitChange(0, "db3", "unknown", "foreign")
	waitTrue(t, stranger, "SELECT true") // it lives
	seen, at := r.p.logged(), r.load.now()
	r.must(r.db1.KillAll())
	r.fenced(r.db1, at, crashGoal)
	r.p.waitChange(seen, "db1", "unknown", "down")
	wantNowhere(t, r.p, "app", "db3 is unknown (belongs to another cluster)")
	r.must(r.db2.Promote(ctx))
	r.load.waitWriters(r.db2, 8)
	r.finish(r.db2)
	if got, err := stranger.QueryString(ctx, "app", "SELECT count(*) > 0 FROM ledger WHERE port = current_setting('port')::int"); err != nil || got != "f" {
		t.Errorf("rows were written on the logical replica: %s (%v)", got, err)
	}
}
