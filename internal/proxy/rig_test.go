package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// patience bounds every wait for a condition. It is no expectation of speed.
const patience = 60 * time.Second

// shared is a primary with two standbys, for the tests that leave servers alone.
var shared struct {
	sync.Mutex
	cluster *pgcluster.Cluster
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.cluster != nil {
		if err := shared.cluster.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "stop shared cluster:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func sharedCluster(t *testing.T) *pgcluster.Cluster {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil {
		shared.cluster = newCluster(t, pgcluster.Config{Standbys: 2, Settings: map[string]string{"max_connections": "400"}})
	}
	return shared.cluster
}

// newCluster starts servers with the roles monitor and app, whose passwords are their names.
func newCluster(t *testing.T, config pgcluster.Config) *pgcluster.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	found, err := pgcluster.Find(0)
	if err != nil {
		if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs PostgreSQL: ", err)
	}
	config.Installation = found
	ctx := within(t)
	c, err := pgcluster.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"CREATE ROLE monitor LOGIN PASSWORD 'monitor'", "CREATE ROLE app LOGIN PASSWORD 'app'", "CREATE DATABASE app OWNER app",
	} {
		err = errors.Join(err, c.Servers()[0].Exec(ctx, "postgres", sql))
	}
	for _, standby := range c.Servers()[1:] {
		err = errors.Join(err, standby.WaitReplay(ctx, c.Servers()[0]))
	}
	if err != nil {
		t.Fatal(errors.Join(err, c.Stop(context.Background())))
	}
	return c
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// rig is a Server in front of real servers, reached without TLS.
type rig struct {
	*Server
	t    *testing.T
	addr string
}

// serve starts a Server in front of c until the end of the test, with the default routes, configured further by adjust.
func serve(t *testing.T, c *pgcluster.Cluster, adjust func(*Config)) *rig {
	t.Helper()
	cfg := Config{
		Clusters: []ClusterConfig{{
			Monitor: backends.MonitorConfig{
				Cluster: "main", Credentials: backends.Credentials{User: "monitor", Password: "monitor", Database: "postgres"},
				Interval: 100 * time.Millisecond,
			},
			Allow: MethodSCRAM,
		}},
		Routes: policy.Rules{Routes: policy.DefaultRoutes("main")},
	}
	for _, s := range c.Servers() {
		cfg.Clusters[0].Monitor.Targets = append(cfg.Clusters[0].Monitor.Targets, backends.Target{
			Cluster: "main", Name: s.Name, Network: "tcp", Address: net.JoinHostPort(s.Host, strconv.Itoa(s.Port)), Weight: 1,
		})
	}
	if adjust != nil {
		adjust(&cfg)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Server: New(cfg), t: t, addr: ln.Addr().String()}
	front := tlsfront.Config{TLS: &tls.Config{MinVersion: tls.VersionTLS13}, PlaintextAllowed: true}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { r.Run(ctx) })
	<-r.Watched(ctx)
	parts.Go(func() { _ = front.Serve(ctx, ln, r.ServeClient) })
	t.Cleanup(func() {
		_ = ln.Close()
		now, done := context.WithCancel(context.Background())
		done()
		r.Drain(now)
		cancel()
		parts.Wait()
		r.Close()
	})
	return r
}

// tryConnect opens a session of role app.
func (r *rig) tryConnect(database, options string) (*pgconn.PgConn, error) {
	dsn := fmt.Sprintf("postgresql://app:app@%s/%s?sslmode=disable", r.addr, database)
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if options != "" {
		config.RuntimeParams["options"] = options
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return pgconn.ConnectConfig(ctx, config)
}

// connect opens a session that must be served, until the end of the test.
func (r *rig) connect(database string) *pgconn.PgConn {
	r.t.Helper()
	conn, err := r.tryConnect(database, "")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { hangUp(conn) })
	return conn
}

func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// exec runs one statement and returns its first value.
func exec(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(within(t), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	for _, result := range results {
		if len(result.Rows) > 0 {
			return string(result.Rows[0][0])
		}
	}
	return ""
}

// told waits for the error that ends a session.
func told(t *testing.T, conn *pgconn.PgConn) *pgconn.PgError {
	t.Helper()
	for {
		_, err := conn.ReceiveMessage(within(t))
		var response *pgconn.PgError
		if errors.As(err, &response) {
			return response
		}
		if err != nil {
			t.Fatalf("session ended with %v, want an error of the protocol", err)
		}
	}
}

// eventually waits for a condition that nothing signals.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}
