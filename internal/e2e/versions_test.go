package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// minorVersions are what a client may ask of protocol 3, and what becomes of it: servers have 3.2 from version 18 on, and
// older ones negotiate down to 3.0.
var minorVersions = []struct {
	server   int
	min, max string
	accepted bool
	keyBytes int // length of the cancel key
}{
	{15, "3.0", "3.0", true, 4},
	{15, "3.0", "3.2", true, 4},
	{15, "3.0", "latest", true, 4},
	{15, "3.2", "3.2", false, 0},
	{18, "3.0", "3.0", true, 4},
	{18, "3.2", "3.2", true, 32},
	{18, "3.2", "latest", true, 32},
}

// The minor version of the protocol is between client and server: the program takes no part in it.
func TestProtocolVersions(t *testing.T) {
	for _, version := range versions {
		p := serve(t, listenHCL+clusterHCL(sharedCluster(t, version)))
		for _, test := range minorVersions {
			if test.server != version {
				continue
			}
			for _, database := range []string{"app", "app_replica"} {
				dsn := p.dsn(database, "min_protocol_version="+test.min, "max_protocol_version="+test.max)
				t.Run(fmt.Sprintf("PostgreSQL %d/%s to %s/%s/psql", version, test.min, test.max, database), func(t *testing.T) {
					_, stderr, err := psql(t, libpqs(t)["libpq18"], dsn, "-c", "SELECT 1")
					if (err == nil) != test.accepted {
						t.Errorf("%v: %s", err, stderr)
					}
					if !test.accepted && !strings.Contains(stderr, "protocol version") {
						t.Errorf("error is %s, want one about the protocol version", stderr)
					}
				})
				t.Run(fmt.Sprintf("PostgreSQL %d/%s to %s/%s/pgx", version, test.min, test.max, database), func(t *testing.T) {
					conn, err := pgconn.Connect(testContext(t), dsn)
					if (err == nil) != test.accepted {
						t.Fatal(err)
					}
					if err != nil {
						return
					}
					if got := len(conn.SecretKey()); got != test.keyBytes {
						t.Errorf("cancel key has %d bytes, want %d", got, test.keyBytes)
					}
					if err := conn.Close(testContext(t)); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// A cancel key of protocol 3.2, longer than all before, finds its session.
func TestLongCancelKey(t *testing.T) {
	c := sharedCluster(t, 18)
	for _, leg := range legs {
		p := serve(t, listenHCL+clusterHCL(c, leg.hcl(t)...))
		dsn := p.dsn("app", "min_protocol_version=3.2", "max_protocol_version=3.2", "channel_binding=disable")
		t.Run(leg.name+"/psql", func(t *testing.T) {
			cmd := exec.CommandContext(testContext(t), filepath.Join(installation(t, 15).BinDir, "psql"), "-X", "-d", dsn,
				"-c", "SELECT pg_sleep(600)")
			cmd.Env = cleanEnvironment("LD_LIBRARY_PATH=" + libpqs(t)["libpq18"])
			var stderr strings.Builder
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitActive(t, c.Servers()[0], "pg_sleep(600)")
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "canceling statement due to user request") {
				t.Errorf("psql: %v: %s", err, stderr.String())
			}
		})
		t.Run(leg.name+"/pgx", func(t *testing.T) {
			ctx := testContext(t)
			conn, err := pgconn.Connect(ctx, dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(ctx) }()
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Exec(ctx, "SELECT pg_sleep(600)").ReadAll()
				ended <- err
			}()
			waitActive(t, c.Servers()[0], "pg_sleep(600)")
			if err := conn.CancelRequest(ctx); err != nil {
				t.Error(err)
			}
			checkState(t, <-ended, "57014")
		})
	}
}

// waitActive waits until a server runs a query.
func waitActive(t *testing.T, s *pgcluster.Server, query string) {
	t.Helper()
	waitTrue(t, s, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() "+
		"AND query LIKE '%"+query+"%')")
}

// waitTrue waits until a query on a server returns true.
func waitTrue(t *testing.T, s *pgcluster.Server, sql string) {
	t.Helper()
	for ctx := testContext(t); ; time.Sleep(10 * time.Millisecond) {
		answer, err := s.QueryString(ctx, "postgres", sql)
		if err != nil {
			t.Fatal(err)
		}
		if answer == "t" {
			return
		}
	}
}

// checkState checks that an error is PostgreSQL's with that SQLSTATE.
func checkState(t *testing.T, err error, want string) {
	t.Helper()
	var response *pgconn.PgError
	if !errors.As(err, &response) || response.Code != want {
		t.Errorf("error is %v, want SQLSTATE %s", err, want)
	}
}

// firstByte is a connection that remembers what was written first.
type firstByte struct {
	net.Conn
	first byte
}

func (c *firstByte) Write(b []byte) (int, error) {
	if c.first == 0 && len(b) > 0 {
		c.first = b[0]
	}
	return c.Conn.Write(b)
}

// Clients may open with TLS at once, without the SSLRequest.
func TestDirectTLS(t *testing.T) {
	c := sharedCluster(t, versions[0]) // whose servers do not know it: it ends at the front
	p := serve(t, listenHCL+clusterHCL(c))
	for _, client := range clients(t) {
		// It came with libpq 17; lib/pq names no protocol in its ALPN, which PostgreSQL refuses like the front does.
		if client.name == "psql with libpq 15" || client.name == "lib/pq" {
			continue
		}
		t.Run(client.name, func(t *testing.T) {
			params := append(client.params, "sslnegotiation=direct", "sslmode=verify-full", "sslrootcert="+p.rootFile())
			place, _, err := client.ask(t, p.dsn("app_replica", params...), whereAmI)
			if err != nil {
				t.Fatal(err)
			}
			checkPlace(t, place, c, true, "app", false)
		})
	}
	t.Run("without SSLRequest", func(t *testing.T) {
		config, err := pgconn.ParseConfig(p.dsn("app") + "&sslnegotiation=direct")
		if err != nil {
			t.Fatal(err)
		}
		var opened *firstByte
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			opened = &firstByte{Conn: conn}
			return opened, err
		}
		conn, err := pgconn.ConnectConfig(testContext(t), config)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(testContext(t)) }()
		const handshake = 0x16 // of a TLS record
		if opened.first != handshake {
			t.Errorf("first byte is %#x, want %#x", opened.first, handshake)
		}
	})
}

// Clients that would do without TLS, but take it where they can, get it: those that begin with it, and those that begin
// in the clear, are refused there, and try again.
func TestOptionalTLS(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		p := serve(t, listenHCL+clusterHCL(c))
		for _, client := range clients(t) {
			if client.name == "lib/pq" || client.name == "node-postgres" {
				continue // the first does not tell what it got, the other has no such modes
			}
			for _, mode := range []string{"prefer", "allow"} {
				t.Run(fmt.Sprintf("PostgreSQL %d/%s/%s", version, client.name, mode), func(t *testing.T) {
					checkClient(t, p, c, client, mode, false)
				})
			}
		}
	}
}

// Where the front has the very certificate of the servers, clients bind their logins to it, and may insist on that.
func TestSameCertificate(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprintf("PostgreSQL %d", version), func(t *testing.T) {
			cert, key := authority().issue("db.test")
			c := startCluster(t, pgcluster.Config{
				Installation: installation(t, version), Standbys: 1,
				TLS: func(string) ([]byte, []byte) { return cert, key },
			})
			p := serve(t, listenHCL+certificateHCL(t, cert, key)+clusterHCL(c, leg{tls: true}.hcl(t)...))
			root := tempFile(t, "root.crt", authority().rootPEM())
			for _, client := range clients(t) {
				bindings := []string{"channel_binding=disable", "channel_binding=prefer", "channel_binding=require"}
				if client.unbound == "" { // it does not know the parameter
					bindings = []string{"sslmode=verify-full"}
				}
				for _, binding := range bindings {
					t.Run(client.name+"/"+binding, func(t *testing.T) {
						params := append(client.params, "sslmode=verify-full", "sslrootcert="+root, binding)
						place, _, err := client.ask(t, p.dsn("app_replica", params...), whereAmI)
						if err != nil {
							t.Fatal(err)
						}
						checkPlace(t, place, c, true, "app", true)
					})
				}
			}
		})
	}
}
