package e2e

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The primary has no connection left, for clients nor for the monitor. It stays the primary; a standby that is full sends
// its clients to the other one.
func TestFault22Full(t *testing.T) {
	r := startFault(t, faultSetup{settings: map[string]string{"max_connections": "40"}, mix: map[clientKind]int{writing: 4, idling: 4, reading: 4}})
	ctx, at := testContext(t), r.load.now()
	for _, s := range []*pgcluster.Server{r.db2, r.db1} {
		seen := r.p.logged()
		empty := fill(t, r.c, s)
		if s == r.db2 {
			wantPlace(t, r.p, "app_replica", r.db3)
		} else if response := connectError(t, r.p.dsn("app")); response.Code != "53300" {
			t.Errorf("a client of a full primary is told %v, want SQLSTATE 53300", response)
		}
		role := map[bool]string{true: "primary", false: "replica"}[s == r.db1]
		r.p.waitChange(seen, s.Name, role, "saturated")
		seen = r.p.logged()
		empty()
		r.p.waitChange(seen, s.Name, role, "up")
	}
	_ = sessionOn(t, r.p, "app_replica", r.db2).Close(ctx)
	r.wantLogin("app")
	r.wantUndisturbed(at, reading)
	r.wantUndisturbed(at, writing)
	r.wantUndisturbed(at, idling)
	r.finish(r.db1)
}

// fill takes every connection that a server has left, those for superusers too, until the function returned is called.
func fill(t *testing.T, c *pgcluster.Cluster, s *pgcluster.Server) (empty func()) {
	t.Helper()
	var taken []*pgconn.PgConn
	empty = func() {
		for _, conn := range taken {
			_ = conn.Close(testContext(t))
		}
		taken = nil
	}
	t.Cleanup(empty)
	dsn := fmt.Sprintf("postgresql://%s:%s@%s/app?sslmode=disable", pgcluster.SuperuserName, c.SuperuserPassword, serverAddress(s))
	for {
		conn, err := pgconn.Connect(testContext(t), dsn)
		if err != nil {
			checkState(t, err, "53300")
			return empty
		}
		taken = append(taken, conn)
	}
}

// The monitor is refused by one server, and then by all: it says so, and nobody loses a session or is kept out.
func TestFault23MonitorRefused(t *testing.T) {
	r := startFault(t, faultSetup{mix: map[clientKind]int{writing: 8, idling: 4, inTransaction: 4, reading: 8}})
	at := r.load.now()
	var allow []func()
	for _, s := range r.c.Servers() {
		seen := r.p.logged()
		allow = append(allow, refuseMonitor(t, s))
		r.must(s.Exec(testContext(t), "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+monitorUser+"'"))
		role := map[bool]string{true: "primary", false: "replica"}[s == r.db1]
		r.p.waitChange(seen, s.Name, role, "misconfigured")
		r.wantLogin("app")
		r.wantLogin("app_replica")
	}
	seen := r.p.logged()
	if chaos { // a role that cannot be confirmed is not believed for ever
		for _, s := range r.c.Servers() {
			r.p.waitChange(seen, s.Name, "unknown", "misconfigured")
		}
		r.wantNoLogin("app")
		r.load.waitWriters(r.db1, 8)
	}
	for _, allow := range allow {
		allow()
	}
	r.p.waitChange(seen, "db1", "primary", "up")
	r.wantLogin("app")
	for _, s := range r.c.Servers() {
		for _, ended := range r.load.endings(s, at) {
			t.Errorf("a %s session on %s ended: %v", ended.kind, s.Name, ended.err)
		}
	}
	r.finish(r.db1)
}
