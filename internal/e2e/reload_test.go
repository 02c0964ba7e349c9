package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// reload makes the program read its configuration again, which must work.
func (p *program) reload(hcl string) {
	p.t.Helper()
	p.configure(hcl)
	seen := p.logged()
	p.signal(syscall.SIGHUP)
	p.waitLogSince(seen, "configuration reloaded", nil)
}

// removed is what a session is told whose server is not in the configuration any more.
func removed(s *pgcluster.Server) refusal {
	return refusal{
		"57P01", fmt.Sprintf(`terminating connection because server %q was removed from cluster "main", or has another address now`, s.Name),
		"", "Reconnect to reach the right server.",
	}
}

// without is the cluster block without some of its servers.
func without(c *pgcluster.Cluster, servers ...*pgcluster.Server) string {
	text := clusterHCL(c)
	for _, s := range servers {
		text = strings.Replace(text, fmt.Sprintf("  backend %q {\n    address = %q\n  }\n", s.Name, serverAddress(s)), "", 1)
	}
	return text
}

// Through twenty reloads, of which some change nothing and others everything that can change, no session ends and no login
// fails.
func TestReloadUnderLoad(t *testing.T) {
	c := sharedCluster(t, versions[0])
	configurations := []string{
		listenHCL + clusterHCL(c),
		listenHCL + clusterHCL(c, `allow_authentication = ["scram-sha-256", "md5"]`) + "tls {\n  min_version = \"1.3\"\n}\n",
		listenHCL + listenHCL + clusterHCL(c) + "route {\n  database_suffix = \"_replica\"\n  role = \"any\"\n}\nroute {}\n",
		"login_timeout = \"20s\"\n" + listenHCL + strings.ReplaceAll(clusterHCL(c), "200ms", "150ms") + "admin {\n  address = \"127.0.0.1:0\"\n}\n",
	}
	p := serve(t, configurations[0])
	ctx := testContext(t)
	var over atomic.Bool
	var load sync.WaitGroup
	var statements, logins atomic.Int64
	for i := range 12 {
		conn := connect(t, p.dsn([]string{"app", "app_replica"}[i%2]))
		load.Go(func() {
			for !over.Load() {
				if _, err := conn.Exec(ctx, "BEGIN; SELECT 1; SELECT pg_sleep(0.005); COMMIT").ReadAll(); err != nil {
					t.Errorf("a session: %v", err)
					return
				}
				statements.Add(1)
			}
		})
	}
	dsns := []string{p.dsn("app"), p.dsn("app_replica")}
	for i := range 2 {
		load.Go(func() {
			for !over.Load() {
				conn, err := pgconn.Connect(ctx, dsns[i])
				if err != nil {
					t.Errorf("a login: %v", err)
					return
				}
				if err := conn.Close(ctx); err != nil {
					t.Errorf("a login's end: %v", err)
				}
				logins.Add(1)
			}
		})
	}
	for i := range 20 {
		before := logins.Load()
		p.reload(configurations[(i/2)%len(configurations)]) // each twice: the second changes nothing
		for logins.Load() < before+4 && !t.Failed() {
			query(t, dsns[0], "SELECT 1")
		}
	}
	over.Store(true)
	load.Wait()
	if statements.Load() == 0 || t.Failed() {
		t.Errorf("%d transactions, %d logins", statements.Load(), logins.Load())
	}
}

// Sessions of a server that is removed move on when they are idle; what is busy may end, but not after drain_timeout; and the
// others do not notice.
func TestReloadRemovesServers(t *testing.T) {
	c := sharedCluster(t, versions[0])
	db1, db2, db3 := c.Server("db1"), c.Server("db2"), c.Server("db3")
	ctx, patient := testContext(t), "drain_timeout = \"1h\"\n"+listenHCL
	p := serve(t, patient+clusterHCL(c))
	writer, other := connect(t, p.dsn("app")), sessionOn(t, p, "app_replica", db3)
	idle, open, busy := sessionOn(t, p, "app_replica", db2), sessionOn(t, p, "app_replica", db2), sessionOn(t, p, "app_replica", db2)
	ask(t, open, "BEGIN; SELECT 1")
	query := startQuery(ctx, busy, endless("removed"))
	waitActive(t, db2, "removed")

	p.reload(patient + without(c, db2))
	removed(db2).check(t, told(t, idle))
	wantPlace(t, p, "app_replica", db3)
	ask(t, open, "SELECT 1")
	if _, err := open.Exec(ctx, "COMMIT").ReadAll(); err != nil {
		t.Errorf("the transaction may end: %v", err)
	}
	removed(db2).check(t, told(t, open))
	if err := busy.CancelRequest(ctx); err != nil { // which reaches the server all the same
		t.Error(err)
	}
	if err := <-query; err == nil || !strings.Contains(err.Error(), "57014") {
		t.Errorf("the query ends with %v, want that it was cancelled", err)
	}
	removed(db2).check(t, told(t, busy))

	p.reload(patient + clusterHCL(c))
	sessionOn(t, p, "app_replica", db2)
	busy = sessionOn(t, p, "app_replica", db2)
	query = startQuery(ctx, busy, endless("removed_twice"))
	waitActive(t, db2, "removed_twice")
	p.reload("drain_timeout = \"300ms\"\n" + listenHCL + without(c, db2))
	removed(db2).check(t, toldInQuery(t, query))
	ask(t, writer, "SELECT 1")
	ask(t, other, "SELECT 1")
	wantPlace(t, p, "app", db1)
}

// The primary's sessions may write: they do not wait when their server is removed and another one is promoted.
func TestReloadRemovesThePrimary(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	db1, db2 := c.Server("db1"), c.Server("db2")
	patient := "drain_timeout = \"1h\"\n" + listenHCL
	p := serve(t, patient+clusterHCL(c))
	open := connect(t, p.dsn("app"))
	ask(t, open, "BEGIN; SELECT 1")
	p.reload(patient + without(c, db1))
	wantNowhere(t, p, "app", "db2 is replica")
	ask(t, open, "SELECT 1")
	if err := db2.Promote(testContext(t)); err != nil {
		t.Fatal(err)
	}
	removed(db1).check(t, told(t, open))
	p.waitChange(0, "db2", "primary", "up")
	wantPlace(t, p, "app", db2)
}

// A file that cannot be used changes nothing, and the log says what to mend and where.
func TestReloadOfABrokenFile(t *testing.T) {
	c := sharedCluster(t, versions[0])
	working := listenHCL + clusterHCL(c)
	p := serve(t, working)
	session := connect(t, p.dsn("app"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, broken := range []struct{ name, hcl, problem, detail string }{
		{"syntax", working + "route {", "Unclosed configuration block", ""},
		{"unknown key", working + "rout { role = \"any\" }\n", "Unsupported block type", `Did you mean "route"?`},
		{"no such cluster", working + "route { cluster = \"other\" }\n", "Unknown cluster", "other"},
		{"address in use", fmt.Sprintf("listen {\n  address = %q\n}\n", taken.Addr()) + working, "Address cannot be used", "another program listens there"},
		{"certificate missing", working + "tls {\n  certificate {\n    cert_file = \"none.crt\"\n    key_file = \"none.key\"\n  }\n}\n", "Certificate cannot be used", "none.crt"},
		{"variable missing", strings.Replace(working, `file("monitor.password")`, `env("NOT_SET_ANYWHERE")`, 1), "No value from env", "NOT_SET_ANYWHERE"},
	} {
		t.Run(broken.name, func(t *testing.T) {
			p.configure(broken.hcl)
			seen := p.logged()
			p.signal(syscall.SIGHUP)
			line := p.waitLogSince(seen, "configuration", map[string]any{"problem": broken.problem})
			if !strings.Contains(fmt.Sprint(line["detail"]), broken.detail) || !strings.Contains(fmt.Sprint(line["at"]), "pgreplicaproxy.hcl:") {
				t.Errorf("the log says %v, want %q and the line", line, broken.detail)
			}
			p.waitLogSince(seen, "configuration not reloaded, the old one stays", nil)
			ask(t, session, "SELECT 1")
			query(t, p.dsn("app"), "SELECT 1")
			p.reloadCommand(t, broken.problem, broken.detail, "pgreplicaproxy.hcl line")
		})
	}
	t.Run("state directory", func(t *testing.T) {
		p.write("pgreplicaproxy.hcl", "state_dir = \"elsewhere\"\n"+working)
		seen := p.logged()
		p.signal(syscall.SIGHUP)
		if at := p.waitLogSince(seen, "configuration", nil)["at"]; !strings.HasSuffix(fmt.Sprint(at), "pgreplicaproxy.hcl:1") {
			t.Errorf("the log points at %v, want the first line", at)
		}
		p.waitLogSince(seen, "configuration not reloaded, the old one stays", nil)
	})
	p.configure(working)
	p.reloadCommand(t)
	ask(t, session, "SELECT 1")
}

// reloadCommand runs `pgreplicaproxy reload`, which must work, or say all of this.
func (p *program) reloadCommand(t *testing.T, problems ...string) {
	t.Helper()
	stdout, stderr, code := command{args: []string{"reload", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl")}}.run(t)
	if len(problems) == 0 {
		if code != 0 || !strings.Contains(stdout, "reloaded the configuration") {
			t.Errorf("the command ends with %d: %s%s", code, stdout, stderr)
		}
		return
	}
	for _, problem := range problems {
		if code == 0 || !strings.Contains(stderr, problem) {
			t.Errorf("the command ends with %d and says %q, want %q in it", code, stderr, problem)
		}
	}
}

// A listener comes and one goes, whose sessions stay.
func TestReloadListeners(t *testing.T) {
	c := sharedCluster(t, versions[0])
	socket := t.TempDir() + "/.s.PGSQL.7432"
	unix := fmt.Sprintf("listen {\n  address = %q\n  tls = \"optional\"\n}\n", socket)
	p := serve(t, listenHCL+clusterHCL(c))
	session, first := connect(t, p.dsn("app")), p.addr
	p.reload(listenHCL + unix + clusterHCL(c))
	p.waitLog("listening", map[string]any{"address": socket})
	local := fmt.Sprintf("host=%s port=7432 user=%s password=%s dbname=app", socket[:strings.LastIndex(socket, "/")], appUser, appPassword)
	query(t, local, "SELECT 1")
	query(t, p.dsn("app"), "SELECT 1")

	p.reload(strings.Replace(unix, "optional", "required", 1) + clusterHCL(c))
	p.waitLog("listening no more", map[string]any{"address": first})
	ask(t, session, "SELECT 1")
	if conn, err := net.Dial("tcp", first); err == nil {
		_ = conn.Close()
		t.Errorf("%s still accepts", first)
	}
	if told := connectError(t, local+" sslmode=disable"); told.Code != "28000" {
		t.Errorf("without TLS a client is told %v, want 28000", told)
	}

	p.reload(listenHCL + clusterHCL(c))
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is left: %v", err)
	}
	ask(t, session, "SELECT 1")
}

// Clusters come and go with their routes; the monitor's role and the log change too.
func TestReloadClusters(t *testing.T) {
	c, other := sharedCluster(t, versions[0]), startCluster(t, pgcluster.Config{})
	second := strings.Replace(clusterHCL(other), `cluster "main"`, `cluster "second"`, 1)
	routes := "route {\n  database = \"second\"\n  cluster = \"second\"\n}\nroute {\n  cluster = \"main\"\n}\n"
	if err := other.Servers()[0].Exec(testContext(t), "postgres", "CREATE DATABASE second"); err != nil {
		t.Fatal(err)
	}
	p := serve(t, "drain_timeout = \"1h\"\n"+listenHCL+clusterHCL(c))
	stays := connect(t, p.dsn("app"))
	checkState(t, connectError(t, p.dsn("second")), "3D000")
	p.reload("drain_timeout = \"1h\"\n" + listenHCL + clusterHCL(c) + second + routes)
	goes := connect(t, p.dsn("second")) // the first login finds its servers known
	if got := portOf(t, goes); got != port(other.Servers()[0]) {
		t.Errorf("database second is on port %s", got)
	}
	p.reload("drain_timeout = \"1h\"\n" + listenHCL + clusterHCL(c))
	gone := removed(other.Servers()[0])
	gone.message = strings.Replace(gone.message, `"main"`, `"second"`, 1)
	gone.check(t, told(t, goes))
	ask(t, stays, "SELECT 1")
	checkState(t, connectError(t, p.dsn("second")), "3D000")
}
