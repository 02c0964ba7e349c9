package e2e

import (
	"bytes"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/lib/pq"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// client is a program or driver as applications use it.
type client struct {
	name string
	// params are for the connection string, beside sslmode and sslrootcert.
	params []string
	// unbound is what keeps the client from binding its login to the certificate of the front, empty where it never does:
	// over a server leg with another certificate the binding would be refused, and rightly.
	unbound string
	// ask runs a query that returns one value, on a connection of its own, whose version of TLS it returns as well.
	ask func(t *testing.T, dsn, sql string) (value, tlsVersion string, err error)
}

// clients are all those that the README promises.
func clients(t *testing.T) []client {
	t.Helper()
	libs := libpqs(t)
	return []client{
		{"psql with libpq 15", nil, "channel_binding=disable", askPsql(libs["libpq15"])},
		// Only libpq from 18 on knows the parameter: with another library the connection fails.
		{"psql with libpq 18", []string{"min_protocol_version=3.0"}, "channel_binding=disable", askPsql(libs["libpq18"])},
		{"pgx", nil, "channel_binding=disable", askPgx},
		{"lib/pq", []string{"ssl_min_protocol_version=TLSv1.3"}, "", askPQ},
		{"node-postgres", []string{"uselibpqcompat=true"}, "", askNode},
	}
}

func askPsql(libDir string) func(*testing.T, string, string) (string, string, error) {
	return func(t *testing.T, dsn, sql string) (string, string, error) {
		out, stderr, err := psql(t, libDir, dsn, "-c", sql, "-c", `\conninfo`)
		if err != nil {
			return "", "", fmt.Errorf("%w: %s", err, stderr)
		}
		value, info, _ := strings.Cut(out, "\n")
		_, info, _ = strings.Cut(info, "SSL connection (protocol: ")
		version, _, _ := strings.Cut(info, ",")
		return value, version, nil
	}
}

func askPgx(t *testing.T, dsn, sql string) (value, version string, err error) {
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if secure, ok := conn.PgConn().Conn().(*tls.Conn); ok {
		version = strings.ReplaceAll(tls.VersionName(secure.ConnectionState().Version), " ", "v")
	}
	err = conn.QueryRow(ctx, sql).Scan(&value)
	return value, version, err
}

// askPQ takes the word of the connection string for the version of TLS: the driver shows its connection to nobody.
func askPQ(t *testing.T, dsn, query string) (value, version string, err error) {
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return "", "", err
	}
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	_, version, _ = strings.Cut(dsn, "ssl_min_protocol_version=")
	err = db.QueryRowContext(testContext(t), query).Scan(&value)
	return value, version, err
}

func askNode(t *testing.T, dsn, sql string) (value, version string, err error) {
	cmd := exec.CommandContext(testContext(t), "node", filepath.Join("drivers", "ask.js"), dsn, sql)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr = cleanEnvironment(), &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	value, version, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	return value, version, nil
}

// whereAmI tells where a session is: whether the server is a standby, database, port of the server, TLS on its leg.
const whereAmI = "SELECT concat_ws(' ', pg_is_in_recovery(), current_database(), inet_server_port(), " +
	"(SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()))"

// checkPlace checks an answer to whereAmI: the primary, or any of the standbys.
func checkPlace(t *testing.T, got string, c *pgcluster.Cluster, standby bool, database string, overTLS bool) {
	t.Helper()
	letter := map[bool]string{true: "t", false: "f"}
	servers := c.Servers()[:1]
	if standby {
		servers = c.Servers()[1:]
	}
	var places []string
	for _, s := range servers {
		places = append(places, fmt.Sprintf("%s %s %d %s", letter[standby], database, s.Port, letter[overTLS]))
	}
	if !slices.Contains(places, got) {
		t.Errorf("session is at %q, want one of %q", got, places)
	}
}

// leg is the way from the program to the servers of a shared cluster.
type leg struct {
	name string
	tls  bool
}

var legs = []leg{{"plain leg", false}, {"TLS leg", true}}

// hcl returns the lines of the cluster block that make the leg what it is.
func (l leg) hcl(t *testing.T) []string {
	t.Helper()
	if !l.tls {
		return nil
	}
	root := tempFile(t, "server-ca.crt", authority().rootPEM())
	return []string{`authentication = "relay"`, "backend_tls {", fmt.Sprintf("  root_file = %q", root), "}"}
}

// certificateHCL is a tls block that gives the front a certificate of the tests.
func certificateHCL(t *testing.T, certPEM, keyPEM []byte) string {
	t.Helper()
	return fmt.Sprintf("tls {\n  certificate {\n    cert_file = %q\n    key_file = %q\n  }\n}\n",
		tempFile(t, "server.crt", certPEM), tempFile(t, "server.key", keyPEM))
}

// tempFile writes a file that lives as long as the test, and returns its path.
func tempFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every client reaches the primary by the name of the database and a standby by the name with the suffix, over TLS 1.3,
// whatever servers and legs there are behind.
func TestClients(t *testing.T) {
	for _, version := range versions {
		for _, leg := range legs {
			c := sharedCluster(t, version)
			p := serve(t, listenHCL+clusterHCL(c, leg.hcl(t)...))
			for _, client := range clients(t) {
				for _, mode := range []string{"require", "verify-full"} {
					t.Run(fmt.Sprintf("PostgreSQL %d/%s/%s/%s", version, leg.name, client.name, mode), func(t *testing.T) {
						checkClient(t, p, c, client, mode, leg.tls)
					})
				}
			}
		}
	}
}

func checkClient(t *testing.T, p *program, c *pgcluster.Cluster, client client, mode string, legTLS bool) {
	params := []string{"sslmode=" + mode}
	if mode == "verify-full" {
		params = append(params, "sslrootcert="+p.rootFile())
	}
	if legTLS && client.unbound != "" {
		params = append(params, client.unbound)
	}
	params = append(params, client.params...)
	for database, standby := range map[string]bool{"app": false, "app_replica": true} {
		place, tlsVersion, err := client.ask(t, p.dsn(database, params...), whereAmI)
		if err != nil {
			t.Errorf("%s: %v", database, err)
			continue
		}
		checkPlace(t, place, c, standby, "app", legTLS)
		if tlsVersion != "TLSv1.3" {
			t.Errorf("%s: session uses %q, want TLSv1.3", database, tlsVersion)
		}
	}
}

// With sslmode=verify-full a client tells the front from an impostor; the front's certificate is one from files here.
func TestClientsVerifyTheFront(t *testing.T) {
	c := sharedCluster(t, versions[0])
	cert, key := authority().issue("front.test")
	p := serve(t, listenHCL+certificateHCL(t, cert, key)+clusterHCL(c))
	stranger, _ := authority().issue("stranger.test")
	ours, theirs := tempFile(t, "root.crt", authority().rootPEM()), tempFile(t, "stranger.crt", stranger)
	for _, test := range []struct {
		name, host, root string
		accepted         bool
	}{
		{"right name and root", "127.0.0.1", ours, true},
		{"wrong name", "localhost", ours, false},
		{"wrong root", "127.0.0.1", theirs, false},
	} {
		for _, client := range clients(t) {
			t.Run(test.name+"/"+client.name, func(t *testing.T) {
				dsn := p.dsn("app", append(client.params, "sslmode=verify-full", "sslrootcert="+test.root)...)
				_, _, err := client.ask(t, strings.Replace(dsn, "127.0.0.1", test.host, 1), "SELECT 'asked'")
				switch {
				case test.accepted && err != nil:
					t.Error(err)
				case !test.accepted && err == nil:
					t.Error("client took the front for the one it wanted")
				case !test.accepted && !strings.Contains(strings.ToLower(err.Error()), "certificate"):
					t.Errorf("error is %v, want one about the certificate", err)
				}
			})
		}
	}
}

// The program listens on IPv6 and on unix sockets as well; on a socket clients ask for no TLS.
func TestListeners(t *testing.T) {
	c := sharedCluster(t, versions[0])
	dir, err := os.MkdirTemp("", "socket-") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, leg := range legs {
		t.Run(leg.name+"/IPv6", func(t *testing.T) {
			p := serve(t, "listen {\n  address = \"[::1]:0\"\n}\n"+clusterHCL(c, leg.hcl(t)...))
			checkListener(t, c, leg, p.dsn("app_replica", "sslmode=verify-full", "sslrootcert="+p.rootFile(), "channel_binding=disable"), "TLSv1.3")
		})
		t.Run(leg.name+"/unix socket", func(t *testing.T) {
			serve(t, fmt.Sprintf("listen {\n  address = %q\n  tls = \"optional\"\n}\n", filepath.Join(dir, ".s.PGSQL.7432"))+
				clusterHCL(c, leg.hcl(t)...))
			checkListener(t, c, leg, fmt.Sprintf("host=%s port=7432 user=%s password=%s dbname=app_replica", dir, appUser, appPassword), "")
		})
	}
}

func checkListener(t *testing.T, c *pgcluster.Cluster, leg leg, dsn, wantTLS string) {
	t.Helper()
	for library, libDir := range libpqs(t) {
		place, tlsVersion, err := askPsql(libDir)(t, dsn, whereAmI)
		if err != nil {
			t.Errorf("%s: %v", library, err)
			continue
		}
		checkPlace(t, place, c, true, "app", leg.tls)
		if tlsVersion != wantTLS {
			t.Errorf("%s: session uses %q, want %q", library, tlsVersion, wantTLS)
		}
	}
}
