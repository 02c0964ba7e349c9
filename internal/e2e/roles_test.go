package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
