package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// attempt opens a session, asks something and closes it.
func attempt(ctx context.Context, dsn, sql string) (answer string, opened bool, err error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", true, err
	}
	return string(results[0].Rows[0][0]), true, nil
}

// waitAttempts waits until so many more attempts have been made.
func waitAttempts(t *testing.T, made *atomic.Int64, more int64) {
	t.Helper()
	want := made.Load() + more
	for end := time.Now().Add(patience); made.Load() < want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d attempts, want %d", made.Load(), want)
		}
	}
}

// While the primary changes, new sessions wait and none is refused, except a login that the old primary leaves in the middle:
// where messages are relayed, the client's proof is for that server alone.
func TestNobodyIsRefusedInSwitchover(t *testing.T) {
	for name, front := range map[string]func(*testing.T, *pgcluster.Cluster) string{
		"relay": func(_ *testing.T, c *pgcluster.Cluster) string { return clusterHCL(c, `hold_primary = "60s"`) },
		"passthrough": func(t *testing.T, c *pgcluster.Cluster) string {
			installSecretFunction(t, c)
			return passthroughHCL(t, c, `hold_primary = "60s"`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t, pgcluster.Config{Standbys: 1, TLS: serverCertificate})
			db1, db2 := c.Server("db1"), c.Server("db2")
			p := serve(t, "login_timeout = \"20s\"\n"+listenHCL+front(t, c))
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			dsn, made := p.dsn("app"), new(atomic.Int64)
			var clients sync.WaitGroup
			for range 6 {
				clients.Go(func() {
					for ctx.Err() == nil {
						_, opened, err := attempt(ctx, dsn, "SELECT 1")
						cut := err != nil && name == "relay" && strings.Contains(err.Error(), "failed SASL auth")
						if !opened && !cut && ctx.Err() == nil {
							t.Errorf("a client could not connect: %v", err)
						}
						made.Add(1)
					}
				})
			}
			waitAttempts(t, made, 20)
			if err := db1.Stop(ctx, pgcluster.Fast); err != nil {
				t.Fatal(err)
			}
			if err := db2.Promote(ctx); err != nil {
				t.Fatal(err)
			}
			waitAttempts(t, made, 20)
			stop()
			clients.Wait()
			wantPlace(t, p, "app", db2)
		})
	}
}

// A client that waits is told in the end what it has waited for; one that goes away makes room for the next; and nobody beyond
// the bound waits.
func TestWaiting(t *testing.T) {
	c := startCluster(t, pgcluster.Config{})
	db1 := c.Server("db1")
	brief := serve(t, listenHCL+clusterHCL(c, `hold_primary = "700ms"`))
	long := serve(t, listenHCL+adminHCL+clusterHCL(c, `hold_primary = "1h"`, "max_waiting = 1"))
	seenBrief, seenLong := brief.logged(), long.logged()
	if err := db1.Stop(testContext(t), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	brief.waitChange(seenBrief, "db1", "unknown", "down")
	long.waitChange(seenLong, "db1", "unknown", "down")
	refusal{
		"57P03", `no primary of cluster "main" can take the session now: db1 is unknown (connection refused)`,
		"Waited 700ms.", "Retry in a few seconds.",
	}.check(t, connectError(t, brief.dsn("app")))

	leave := make(chan context.CancelFunc, 3)
	ended := make(chan error, 3)
	enter := func() {
		ctx, cancel := context.WithCancel(testContext(t))
		leave <- cancel
		_, _, err := attempt(ctx, long.dsn("app"), "SELECT 1")
		ended <- err
	}
	long.rootFile()
	go enter()
	waitWaiting(t, long)
	if told := connectError(t, long.dsn("app")); told.Code != "53300" || !strings.Contains(told.Message, "too many clients wait for a primary") {
		t.Errorf("one more is told %v, want that too many wait", told)
	}
	(<-leave)()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	long.waitLog("client gone during login", nil)
	go enter()
	waitWaiting(t, long)
	if err := db1.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("who waited while the primary came got %v", err)
	}
	(<-leave)()
}

// waitWaiting waits until the program says that one client waits.
func waitWaiting(t *testing.T, p *program) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(get(t, p.admin()+"/metrics"), `pgreplicaproxy_waiting{cluster="main"} 1`); {
		if time.Now().After(end) {
			t.Fatal("no client waits")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// A burst that comes while the primary is absent is served by and by when it is there, though it has far fewer places than
// clients: who finds it full before the login began comes again. Those beyond the bound are refused at once.
func TestBurst(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Settings: map[string]string{"max_connections": "12", "superuser_reserved_connections": "0"}})
	db1 := c.Server("db1")
	const clients, waiting = 200, 120 // of which one address may have half
	p := serve(t, "login_timeout = \"60s\"\n"+listenHCL+clusterHCL(c, `hold_primary = "60s"`, fmt.Sprintf("max_waiting = %d", waiting), "max_dials = 4"))
	seen := p.logged()
	if err := db1.Stop(testContext(t), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.waitChange(seen, "db1", "unknown", "down")
	dsn := p.dsn("app", "sslmode=require")
	var work sync.WaitGroup
	var served, refused atomic.Int64
	for range clients {
		work.Go(func() {
			_, _, err := attempt(testContext(t), dsn, "SELECT 1")
			var told *pgconn.PgError
			switch {
			case err == nil:
				served.Add(1)
			case errors.As(err, &told) && told.Code == "53300" && strings.Contains(told.Message, "too many clients wait"):
				refused.Add(1)
			default:
				t.Errorf("a client got %v", err)
			}
		})
	}
	waitAttempts(t, &refused, clients-waiting/2-refused.Load())
	if err := db1.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	work.Wait()
	if served.Load() != waiting/2 || refused.Load() != clients-waiting/2 {
		t.Errorf("%d clients are served and %d refused, want %d and %d", served.Load(), refused.Load(), waiting/2, clients-waiting/2)
	}
}

// No more sessions than max_dials are on their way to one server, from the dial to its first word.
func TestDialsAreBounded(t *testing.T) {
	const most, clients = 3, 24
	var under, top atomic.Int64
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], func(s *fakeSession) {
		if s.startup.User() == appUser { // not the program's own
			n := under.Add(1)
			for old := top.Load(); n > old && !top.CompareAndSwap(old, n); old = top.Load() {
			}
			time.Sleep(30 * time.Millisecond)
			under.Add(-1)
		}
		s.say(errorMessage("28000", "no"))
	})
	p := serveFake(t, f, fmt.Sprintf("max_dials = %d", most))
	var work sync.WaitGroup
	for range clients {
		work.Go(func() { _, _, _ = attempt(testContext(t), p.dsn("app"), "SELECT 1") })
	}
	work.Wait()
	if got := top.Load(); got != most {
		t.Errorf("%d sessions were on their way at a time, want %d", got, most)
	}
}

// A client that has written names the position, and reads what it wrote on a replica, however late they are: one of the two
// replays nothing for a while.
func TestReadYourWrites(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 2})
	ctx, late := testContext(t), c.Server("db3")
	p := serve(t, listenHCL+clusterHCL(c, `hold_replica = "60s"`))
	writer := connect(t, p.dsn("app"))
	ask(t, writer, "CREATE TABLE counter (n int); INSERT INTO counter VALUES (0)")
	if err := late.Exec(ctx, "postgres", "SELECT pg_wal_replay_pause()"); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 30; n++ {
		position := ask(t, writer, fmt.Sprintf("UPDATE counter SET n = %d; SELECT pg_current_wal_insert_lsn()", n))
		dsn := p.dsn("app_replica", "options=-c%20pgreplicaproxy.min_lsn%3D"+position+"%20-c%20application_name%3Dreader")
		const sql = "SELECT concat_ws(' ', n, pg_is_in_recovery(), current_setting('application_name'), current_setting('pgreplicaproxy.min_lsn', true)) FROM counter"
		got, _, err := attempt(ctx, dsn, sql)
		if want := fmt.Sprintf("%d t reader", n); err != nil || got != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := late.Exec(ctx, "postgres", "SELECT pg_wal_replay_resume()"); err != nil {
		t.Fatal(err)
	}
	refusal{
		"22023", `invalid value for parameter "pgreplicaproxy.min_lsn": "now"`, "",
		`It is a position in the write-ahead log as pg_current_wal_insert_lsn() tells it, such as "16/B374D848".`,
	}.check(t, connectError(t, p.dsn("app_replica", "options=-c%20pgreplicaproxy.min_lsn%3Dnow")))
}

// What becomes of the sessions of a standby that falls behind, and of one that is promoted, is as the operator wants it.
func TestTransitions(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	ctx, db1, db2 := testContext(t), c.Server("db1"), c.Server("db2")
	const hour = "drain_timeout = \"1h\"\n"
	closing := serve(t, hour+listenHCL+clusterHCL(c, `max_lag = "1MB"`, `on_lagging = "close"`, `on_promoted = "close"`))
	draining := serve(t, hour+listenHCL+clusterHCL(c, `max_lag = "1MB"`, `on_lagging = "drain"`))
	leaving := serve(t, hour+listenHCL+clusterHCL(c, `max_lag = "1MB"`, `on_promoted = "leave"`))
	begin := func(p *program) *pgconn.PgConn {
		conn := connect(t, p.dsn("app_replica"))
		ask(t, conn, "BEGIN; SELECT 1")
		return conn
	}
	ended := func(p *program, conn *pgconn.PgConn) {
		t.Helper()
		if got := told(t, conn); got.Code != "57P01" || !strings.Contains(got.Message+got.Detail, `server "db2" can no longer serve as replica`) {
			t.Errorf("%s: told %v", p.addr, got)
		}
	}
	lagged, drained, left := begin(closing), begin(draining), begin(leaving)
	if err := errors.Join(
		db2.Exec(ctx, "postgres", "SELECT pg_wal_replay_pause()"),
		db1.Exec(ctx, "postgres", "CREATE TABLE much AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)"),
	); err != nil {
		t.Fatal(err)
	}
	ended(closing, lagged)
	ask(t, drained, "SELECT 1")
	ask(t, drained, "COMMIT")
	ended(draining, drained)
	leaving.waitLog("server changed", map[string]any{"backend": "db2", "lagging": true})
	wantNowhere(t, leaving, "app_replica", "db2 is replica")
	ask(t, left, "SELECT 1")
	seen := closing.logged()
	if err := db2.Exec(ctx, "postgres", "SELECT pg_wal_replay_resume()"); err != nil {
		t.Fatal(err)
	}
	var promoted *pgconn.PgConn
	for promoted == nil {
		promoted, _ = pgconn.Connect(ctx, closing.dsn("app_replica")) // as soon as it has caught up
		if ctx.Err() != nil {
			t.Fatal("db2 never serves again")
		}
	}
	t.Cleanup(func() { _ = promoted.Close(testContext(t)) })
	ask(t, promoted, "BEGIN; SELECT 1")

	if err := db1.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if err := db2.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	ended(closing, promoted)
	closing.waitChange(seen, "db2", "primary", "up")
	leaving.waitChange(0, "db2", "primary", "up")
	ask(t, left, "SELECT 1")
	ask(t, left, "COMMIT")
	ask(t, left, "SELECT 1")
}
