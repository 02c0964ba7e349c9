package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/dnstest"
	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The whole way with the real Patroni: the servers come from it, a switchover under writers loses no row that was acknowledged,
// and a Patroni that answers no more leaves everything as it is.
func TestPatroni(t *testing.T) {
	c := startPatroni(t)
	node1, node2 := c.nodes[0], c.nodes[1]
	p := serve(t, listenHCL+c.hcl())
	for _, n := range c.nodes {
		p.waitLog("server changed", map[string]any{"backend": n.name, "status": "up"})
	}
	wantPort(t, p, "app", node1.port)
	wantPort(t, p, "app_replica", node2.port) // node3 is not for load balancing

	w := startLedger(t, p.dsn("app"))
	w.await(t, fmt.Sprint(node1.port))
	seen := p.logged()
	c.switchover(node1, node2)
	w.await(t, fmt.Sprint(node2.port))
	p.waitLogSince(seen, "server changed", map[string]any{"backend": "node1", "role": "replica"})
	c.wait("the old leader follows", func(m []patroniMember) bool { return following(m) == 2 })
	wantPort(t, p, "app", node2.port)
	wantPort(t, p, "app_replica", node1.port)
	w.check(t, p.dsn("app"))

	session, seen := connect(t, p.dsn("app")), p.logged()
	c.signal(syscall.SIGSTOP)
	p.waitLogSince(seen, "servers not looked up, those of the last answer stay", nil)
	ask(t, session, "SELECT 1")
	wantPort(t, p, "app", node2.port)
	wantPort(t, p, "app_replica", node1.port)
	c.signal(syscall.SIGCONT)
	p.waitLogSince(seen, "servers looked up again", nil)
	ask(t, session, "SELECT 1")
}

// wantPort opens some sessions, all of which must be on a port.
func wantPort(t *testing.T, p *program, database string, port int) {
	t.Helper()
	for range 6 {
		conn := connect(t, p.dsn(database))
		if got := portOf(t, conn); got != fmt.Sprint(port) {
			t.Errorf("session of %s is on port %s, want %d", database, got, port)
		}
		_ = conn.Close(testContext(t))
	}
}

// ledger is what one writer was told is written, on sessions that it opens again whenever they end.
type ledger struct {
	mu    sync.Mutex
	rows  []string
	ports map[string]int
	more  chan struct{} // closed and renewed at every row
	stop  func()
}

func startLedger(t *testing.T, dsn string) *ledger {
	t.Helper()
	query(t, dsn, "CREATE TABLE ledger (id int PRIMARY KEY)")
	l := &ledger{ports: make(map[string]int), more: make(chan struct{})}
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan struct{})
	l.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(l.stop)
	go func() {
		defer close(done)
		for id := 0; ctx.Err() == nil; {
			if conn, err := pgconn.Connect(ctx, dsn); err == nil {
				for err == nil {
					id++
					err = l.write(ctx, conn, id)
				}
				_ = conn.Close(ctx)
			}
		}
	}()
	return l
}

func (l *ledger) write(ctx context.Context, conn *pgconn.PgConn, id int) error {
	results, err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO ledger VALUES (%d) RETURNING inet_server_port()", id)).ReadAll()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = append(l.rows, fmt.Sprint(id))
	l.ports[string(results[0].Rows[0][0])]++
	close(l.more)
	l.more = make(chan struct{})
	return nil
}

// await waits until rows were written on a server.
func (l *ledger) await(t *testing.T, port string) {
	t.Helper()
	for ctx := testContext(t); ; {
		l.mu.Lock()
		n, more := l.ports[port], l.more
		l.mu.Unlock()
		if n >= 10 {
			return
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("nothing is written on port %s", port)
		}
	}
}

// check ends the writing and expects every row that was acknowledged.
func (l *ledger) check(t *testing.T, dsn string) {
	t.Helper()
	l.stop()
	there := make(map[string]bool)
	for id := range strings.FieldsSeq(query(t, dsn, "SELECT id FROM ledger")) {
		there[id] = true
	}
	for _, id := range l.rows {
		if !there[id] {
			t.Errorf("row %s was acknowledged and is lost", id)
		}
	}
}

// What Patroni says is checked by what the servers say: a leader in recovery gets no writers. Where two servers claim to be
// the primary, its word decides, against the standbys if need be.
func TestPatroniLeader(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	db1, db2 := c.Server("db1"), c.Server("db2")
	var leader atomic.Pointer[pgcluster.Server]
	leader.Store(db2)
	var asked atomic.Int64
	rest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = fmt.Fprintf(w, `{"members": [{"name": "anything", "role": "leader", "state": "running", "host": %q, "port": %d}]}`,
			leader.Load().Host, leader.Load().Port)
	}))
	defer rest.Close()
	p := serve(t, listenHCL+clusterHCL(c, fmt.Sprintf("patroni {\n    urls = [%q]\n    interval = \"200ms\"\n  }", rest.URL)))
	wantPlace(t, p, "app", db1)

	leader.Store(db1)
	before := asked.Load()
	waitFor(t, "the program has taken the new leader in", func() bool { return asked.Load() >= before+2 })
	old := connect(t, p.dsn("app"))
	if err := db2.Promote(testContext(t)); err != nil {
		t.Fatal(err)
	}
	p.waitLog("server changed", map[string]any{"backend": "db2", "status": "quarantined"})
	ask(t, old, "SELECT 1")
	wantPlace(t, p, "app", db1)

	leader.Store(db2) // although db3 follows db1
	p.waitChange(0, "db2", "primary", "up")
	if told := told(t, old); told.Code != "57P01" {
		t.Errorf("the old primary's session is told %v, want 57P01", told)
	}
	wantPlace(t, p, "app", db2)
}

// Fault 26: the addresses of a name change, one vanishes, and the name server is gone or silent.
func TestFault26DNS(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	db1, db2 := c.Server("db1"), c.Server("db2")
	names := dnstest.New(t)
	names.Close()
	hcl := func(server string) string {
		return "drain_timeout = \"1h\"\n" + listenHCL + strings.Replace(without(c, db2), "\n}\n", fmt.Sprintf("\n  backend \"pool\" {\n"+
			"    address = \"replicas.test:%d\"\n    resolve = \"100ms\"\n    dns_server = %q\n  }\n}\n", db2.Port, server), 1)
	}
	p := serve(t, hcl(names.Address())) // with a name server that is gone
	p.waitLog("servers not looked up, those of the last answer stay", nil)
	wantPlace(t, p, "app", db1)
	wantNowhere(t, p, "app_replica", "db1 is primary")

	names = dnstest.New(t, "127.0.0.1")
	p.reload(hcl(names.Address()))
	p.waitChange(0, "pool-127.0.0.1", "replica", "up")
	wantPlace(t, p, "app_replica", db2)
	stays := connect(t, p.dsn("app_replica"))

	for name, change := range map[string]func(){
		"NXDOMAIN": func() { names.Set(dnstest.NameError) }, "SERVFAIL": func() { names.Set(dnstest.ServerFailure) }, "silence": names.Silence,
	} {
		names.Set(0, "127.0.0.1")
		seen := p.logged()
		change()
		p.waitLogSince(seen, "servers not looked up, those of the last answer stay", nil)
		ask(t, stays, "SELECT 1")
		wantPlace(t, p, "app_replica", db2)
		if err := db1.Exec(testContext(t), "postgres", "SELECT pg_switch_wal()"); err != nil { // the monitor goes on all the while
			t.Error(err)
		}
		names.Set(0, "127.0.0.1")
		p.waitLogSince(seen, "servers looked up again", nil)
		if t.Failed() {
			t.Fatal(name)
		}
	}

	names.Set(0, "127.0.0.1", "::1") // another way to the same standby
	p.waitChange(0, "pool---1", "replica", "up")
	names.Set(0, "::1")
	p.waitLog("server removed", map[string]any{"backend": "pool-127.0.0.1"})
	gone := told(t, stays)
	if gone.Code != "57P01" || !strings.Contains(gone.Message, `server "pool-127.0.0.1" was removed from cluster "main"`) {
		t.Errorf("the session is told %v", gone)
	}
	moved := connect(t, p.dsn("app_replica"))
	if got := ask(t, moved, "SELECT inet_server_addr()"); got != "::1" && got != "::1/128" {
		t.Errorf("a new session is on %s, want ::1", got)
	}
}

// A session that waits for a server gets the one that a reload brings, by the routes that it brings.
func TestReloadServesWhoWaits(t *testing.T) {
	c := sharedCluster(t, versions[0])
	db1 := c.Server("db1")
	patient := adminHCL + listenHCL + strings.Replace(without(c, db1), `hold_primary = "0s"`, `hold_primary = "5m"`, 1)
	for name, reloaded := range map[string]string{
		"a primary": adminHCL + listenHCL + clusterHCL(c),
		"a route":   patient + "route {\n  role = \"any\"\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, patient)
			ctx, dsn := testContext(t), p.dsn("app")
			done := make(chan error, 1)
			go func() {
				conn, err := pgconn.Connect(ctx, dsn)
				if err == nil {
					err = conn.Close(ctx)
				}
				done <- err
			}()
			p.waitHeld(t)
			p.reload(reloaded)
			if err := <-done; err != nil {
				t.Errorf("the session that waited: %v", err)
			}
		})
	}
}

// waitHeld waits until a session is held.
func (p *program) waitHeld(t *testing.T) {
	t.Helper()
	for ctx := testContext(t); ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		response, err := http.Get(p.admin() + "/sessions")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err == nil && strings.Contains(strings.ReplaceAll(string(body), " ", ""), `"state":"login"`) {
			return
		}
	}
	t.Fatal("no session is held")
}
