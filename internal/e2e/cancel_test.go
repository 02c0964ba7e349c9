package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// cancelRequest is the packet with which a session's query is cancelled.
func cancelRequest(pid uint32, key []byte) string {
	return word(uint32(12+len(key))) + word(1234<<16|5678) + word(pid) + string(key)
}

// endless is a query that ends only when it is cancelled, with a mark by which waitActive finds it.
func endless(mark string) string { return "SELECT pg_sleep(600) AS " + mark }

// startQuery runs a query on a session and returns where its error will be.
func startQuery(ctx context.Context, conn *pgconn.PgConn, sql string) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, sql).ReadAll()
		ended <- err
	}()
	return ended
}

// activeSessions counts the sessions on a server that run the marked query.
func activeSessions(t *testing.T, s *pgcluster.Server, mark string) string {
	t.Helper()
	n, err := s.QueryString(testContext(t), "postgres", "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "+
		"AND pid <> pg_backend_pid() AND query LIKE '%"+mark+"%'")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cancelWays are the ways in which a cancel request reaches the program.
var cancelWays = map[string]func(*program, *testing.T) *rawClient{
	"clear": (*program).dialRaw, // as libpq does before version 17, for a session over TLS too
	"TLS":   (*program).dialTLS,
	"direct TLS": func(p *program, t *testing.T) *rawClient {
		client := p.dialRaw(t)
		client.secure("postgresql")
		return client
	},
}

// onServer returns a cluster's primary and first standby by the database that leads there.
func onServer(c *pgcluster.Cluster) map[string]*pgcluster.Server {
	return map[string]*pgcluster.Server{"app": c.Servers()[0], "app_replica": c.Servers()[1]}
}

// oneStandby configures the primary and the first standby of a cluster, so that it is known where a session will be.
func oneStandby(c *pgcluster.Cluster, lines ...string) string {
	return backendsHCL(lines, backend{"db1", serverAddress(c.Servers()[0]), 0}, backend{"db2", serverAddress(c.Servers()[1]), 0})
}

// Ctrl-C in psql ends the query on the server that the session is on.
func TestCancelFromPsql(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		for _, leg := range legs {
			p := serve(t, listenHCL+oneStandby(c, leg.hcl(t)...))
			for library, libDir := range libpqs(t) {
				for database, server := range onServer(c) {
					t.Run(fmt.Sprintf("PostgreSQL %d/%s/%s/%s", version, leg.name, library, database), func(t *testing.T) {
						interruptPsql(t, libDir, p.dsn(database)+"&channel_binding=disable", server)
					})
				}
			}
		}
	}
}

// interruptPsql sends SIGINT to psql once its query runs on a server.
func interruptPsql(t *testing.T, libDir, dsn string, server *pgcluster.Server) {
	t.Helper()
	const mark = "by_psql"
	cmd := exec.CommandContext(testContext(t), "psql", "-X", "-d", dsn, "-c", endless(mark))
	cmd.Env = cleanEnvironment("LD_LIBRARY_PATH=" + libDir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitActive(t, server, mark)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	err := cmd.Wait()
	if err == nil || !strings.Contains(stderr.String(), "canceling statement due to user request") {
		t.Errorf("psql: %v: %s", err, stderr.String())
	}
}

// A cancel request works in the clear and over TLS, whatever the session itself uses, with the keys of each version of the
// protocol; and as its sender's connection is closed only when the server has dealt with it, the session's next query is
// not hit.
func TestCancel(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		for _, leg := range legs {
			p := serve(t, listenHCL+oneStandby(c, leg.hcl(t)...))
			for database, server := range onServer(c) {
				for way, dial := range cancelWays {
					t.Run(fmt.Sprintf("PostgreSQL %d/%s/%s/%s", version, leg.name, database, way), func(t *testing.T) {
						conn := connect(t, p.dsn(database, "sslmode=verify-full", "sslrootcert="+p.rootFile(),
							"channel_binding=disable", "max_protocol_version=latest"))
						if want := map[int]int{15: 4, 18: 32}[version]; len(conn.SecretKey()) != want {
							t.Errorf("key of %d bytes, want %d", len(conn.SecretKey()), want)
						}
						ended := startQuery(testContext(t), conn, endless("to_cancel"))
						waitActive(t, server, "to_cancel")
						client := dial(p, t)
						client.say(cancelRequest(conn.PID(), conn.SecretKey()))
						if got := client.rest(); len(got) > 0 {
							t.Errorf("the program answered %q to a cancel request", got)
						}
						checkState(t, <-ended, "57014")
						if err := <-startQuery(testContext(t), conn, "SELECT 1"); err != nil {
							t.Errorf("next query: %v", err)
						}
					})
				}
			}
		}
	}
}

// A driver that cancels and then goes on may rely on the end of its request: whatever the session runs afterwards is not
// cancelled, neither when a query was running nor when none was.
func TestCancelIsOverWhenItEnds(t *testing.T) {
	const times = 50
	c := sharedCluster(t, versions[1])
	for _, leg := range legs {
		p := serve(t, listenHCL+oneStandby(c, leg.hcl(t)...))
		conn := connect(t, p.dsn("app")+"&channel_binding=disable")
		ctx := testContext(t)
		t.Run(leg.name+"/running", func(t *testing.T) {
			for range times {
				ended := startQuery(ctx, conn, endless("to_cancel"))
				waitActive(t, c.Servers()[0], "to_cancel")
				if err := conn.CancelRequest(ctx); err != nil {
					t.Fatal(err)
				}
				checkState(t, <-ended, "57014")
				if err := <-startQuery(ctx, conn, "SELECT pg_sleep(0.005)"); err != nil {
					t.Fatalf("next query: %v", err)
				}
			}
		})
		t.Run(leg.name+"/idle", func(t *testing.T) {
			for range times {
				if err := conn.CancelRequest(ctx); err != nil {
					t.Fatal(err)
				}
				if err := <-startQuery(ctx, conn, "SELECT pg_sleep(0.005)"); err != nil {
					t.Fatalf("next query: %v", err)
				}
			}
		})
	}
}

// A request that does not have the whole key of a session, or comes after its end, cancels nothing.
func TestCancelWithWrongKey(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		p := serve(t, listenHCL+clusterHCL(c))
		dsn := p.dsn("app", "sslmode=verify-full", "sslrootcert="+p.rootFile(), "max_protocol_version=latest")
		conn, over := connect(t, dsn), connect(t, dsn)
		if err := over.Close(testContext(t)); err != nil {
			t.Fatal(err)
		}
		pid, key := conn.PID(), conn.SecretKey()
		other := bytes.Clone(key)
		other[len(other)-1] ^= 1
		ended := startQuery(testContext(t), conn, endless("to_stay"))
		waitActive(t, c.Servers()[0], "to_stay")
		for name, request := range map[string]string{
			"last bit":       cancelRequest(pid, other),
			"zero":           cancelRequest(pid, make([]byte, len(key))),
			"shorter":        cancelRequest(pid, key[:len(key)-1]),
			"longer":         cancelRequest(pid, append(bytes.Clone(key), 0)),
			"none":           cancelRequest(pid, nil),
			"too long":       cancelRequest(pid, append(bytes.Clone(key), make([]byte, 300)...)),
			"another pid":    cancelRequest(pid+1, key),
			"no pid":         cancelRequest(0, key),
			"ended session":  cancelRequest(over.PID(), over.SecretKey()),
			"request in two": cancelRequest(pid, other)[:12],
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%s", version, name), func(t *testing.T) {
				client := p.dialRaw(t)
				client.say(request)
				if name == "request in two" {
					client.closeWrite()
				}
				_ = client.rest()
				if got := activeSessions(t, c.Servers()[0], "to_stay"); got != "1" {
					t.Errorf("%s sessions run the query, want 1", got)
				}
			})
		}
		if err := conn.CancelRequest(testContext(t)); err != nil {
			t.Error(err)
		}
		checkState(t, <-ended, "57014")
		p.waitLog("query cancelled", nil)
		// The servers were not bothered with any other: six requests were well-formed, and wrong.
		for message, want := range map[string]int{"cancel request matches no session": 6, "query cancelled": 1} {
			if got := strings.Count(p.log(), message); got != want {
				t.Errorf("the program logged %q %d times, want %d", message, got, want)
			}
		}
	}
}

// Of many busy sessions on several servers a request hits its own and no other.
func TestCancelAmongMany(t *testing.T) {
	const each = 12
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+oneStandby(c))
	ctx := testContext(t)
	var conns []*pgconn.PgConn
	var ended []<-chan error
	for i := range 2 * each {
		conns = append(conns, connect(t, p.dsn([]string{"app", "app_replica"}[i%2])))
		ended = append(ended, startQuery(ctx, conns[i], endless("of_many")))
	}
	for _, server := range onServer(c) {
		waitTrue(t, server, fmt.Sprintf("SELECT count(*) = %d FROM pg_stat_activity WHERE state = 'active' "+
			"AND pid <> pg_backend_pid() AND query LIKE '%%of_many%%'", each))
	}
	for i := range conns {
		if err := conns[i].CancelRequest(ctx); err != nil {
			t.Fatal(err)
		}
		checkState(t, <-ended[i], "57014")
		left := []int{each - (i+2)/2, each - (i+1)/2}
		for j, server := range c.Servers()[:2] {
			if got := activeSessions(t, server, "of_many"); got != fmt.Sprint(left[j]) {
				t.Fatalf("after %d cancels %s has %s busy sessions, want %d", i+1, server.Name, got, left[j])
			}
		}
	}
	for i, late := range ended {
		select {
		case err := <-late:
			t.Errorf("session %d ended twice: %v", i, err)
		default:
		}
	}
}
