package e2e

import (
	"bytes"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// Outcomes of a login.
const (
	loggedIn       = "logged in"
	refusedByUs    = "refused by the program, with the reason"
	refusedLocally = "given up by the client"
)

// outcome tells how a login went.
func outcome(err error) string {
	switch {
	case err == nil:
		return loggedIn
	case strings.Contains(err.Error(), `SCRAM channel binding cannot reach server "db1" through the proxy`):
		return refusedByUs
	case strings.Contains(err.Error(), "channel binding required"), strings.Contains(err.Error(), "channel binding is required"):
		return refusedLocally
	default:
		return err.Error()
	}
}

// binder is a client with the ways in which it can bind its login to the certificate that it is shown: the values of
// channel_binding, and "bind" for node-postgres's enableChannelBinding, with which it says that it would bind (gs2 flag y)
// even on a connection without TLS.
type binder struct {
	name  string
	modes []string
	login func(t *testing.T, dsn, mode string) error
}

func binders(t *testing.T) []binder {
	t.Helper()
	all := []binder{
		{"pgx", []string{"disable", "prefer", "require"}, func(t *testing.T, dsn, mode string) error {
			conn, err := pgconn.Connect(testContext(t), dsn+"&channel_binding="+mode)
			if err == nil {
				err = conn.Close(testContext(t))
			}
			return err
		}},
		{"lib/pq", []string{"disable"}, func(t *testing.T, dsn, _ string) error {
			_, _, err := askPQ(t, dsn, "SELECT 1")
			return err
		}},
		{"node-postgres", []string{"disable", "bind"}, func(t *testing.T, dsn, mode string) error {
			return runDriver(t, "node", filepath.Join("drivers", "login.js"), dsn, mode)
		}},
		{"asyncpg", []string{"disable"}, func(t *testing.T, dsn, _ string) error {
			return runDriver(t, "/usr/bin/python3", filepath.Join("drivers", "login.py"), dsn) // Debian's, which has the driver
		}},
		{"pgjdbc", []string{"disable"}, func(t *testing.T, dsn, _ string) error {
			return runDriver(t, "java", "-XX:TieredStopAtLevel=1", "-cp", jdbcClasses()+":/usr/share/java/postgresql.jar", "Login", jdbcURL(t, dsn))
		}},
	}
	for library, libDir := range libpqs(t) {
		all = append(all, binder{library, []string{"disable", "prefer", "require"}, func(t *testing.T, dsn, mode string) error {
			_, stderr, err := psql(t, libDir, dsn+"&channel_binding="+mode, "-c", "SELECT 1")
			if err != nil {
				return fmt.Errorf("%w: %s", err, stderr)
			}
			return nil
		}})
	}
	return all
}

// runDriver runs a program that logs in.
func runDriver(t *testing.T, name string, args ...string) error {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), name, args...)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr = cleanEnvironment(), &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	return nil
}

// jdbcClasses compiles the program for pgjdbc once, beside the program under test.
var jdbcClasses = sync.OnceValue(func() string {
	dir := filepath.Dir(binary)
	if out, err := exec.Command("javac", "-d", dir, filepath.Join("drivers", "Login.java")).CombinedOutput(); err != nil {
		return fmt.Sprintf("javac: %v: %s", err, out) // java will say that it is no place for classes
	}
	return dir
})

// jdbcURL turns a connection string of libpq into one of pgjdbc, which has user and password among the parameters.
func jdbcURL(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return fmt.Sprintf("jdbc:postgresql://%s%s?%s&user=%s&password=%s", u.Host, u.Path, u.RawQuery, u.User.Username(), password)
}

// Channel binding binds a login to the certificate of the front. It reaches the server only where that has the same one;
// where there is no TLS behind the front there is nothing to bind to, which only a client that insists minds.
func (s loginServer) testChannelBinding(t *testing.T) {
	same := []string{"sslmode=verify-full", "sslrootcert=" + filepath.Join(s.files, "root.crt")}
	for _, leg := range []struct {
		name, hcl string
		params    []string // of clients; none for TLS with the local CA
		want      map[string]string
	}{
		{
			"plain leg", listenHCL + s.tcp(), nil,
			map[string]string{"disable": loggedIn, "prefer": loggedIn, "bind": loggedIn, "require": refusedLocally},
		},
		{
			"unix socket", listenHCL + s.unix(), nil,
			map[string]string{"disable": loggedIn, "prefer": loggedIn, "bind": loggedIn, "require": refusedLocally},
		},
		{
			"TLS leg, another certificate", listenHCL + s.tcp(s.overTLS()...), nil,
			map[string]string{"disable": loggedIn, "prefer": refusedByUs, "bind": refusedByUs, "require": refusedByUs},
		},
		{
			"TLS leg, same certificate", listenHCL + s.sameCertificate() + s.tcp(s.overTLS()...), same,
			map[string]string{"disable": loggedIn, "prefer": loggedIn, "bind": loggedIn, "require": loggedIn},
		},
		{ // where a client without TLS hears of no channel binding: libpq would give the login up
			"TLS leg, client without TLS", optionalHCL + s.tcp(s.overTLS()...),
			[]string{"sslmode=disable"},
			map[string]string{"disable": loggedIn, "prefer": loggedIn, "bind": refusedByUs, "require": refusedLocally},
		},
	} {
		t.Run(leg.name, func(t *testing.T) {
			p := serve(t, leg.hcl)
			dsn := p.dsn("app", leg.params...)
			for _, client := range binders(t) {
				for _, mode := range client.modes {
					if got := outcome(client.login(t, dsn, mode)); got != leg.want[mode] {
						t.Errorf("%s, channel binding %s: %s, want: %s", client.name, mode, got, leg.want[mode])
					}
				}
			}
		})
	}
}

// A login that channel binding would break is refused with the reason and the fix, in either form: bound to another
// certificate, or unbound with the word that it would have been (RFC 5802, section 6, gs2 flag y).
func (s loginServer) testBrokenBinding(t *testing.T) {
	told := refusal{
		"28000", `SCRAM channel binding cannot reach server "db1" through the proxy`,
		"What the client says of it holds for its own connection, and the server's has another certificate.",
		`Set authentication = "scram_passthrough" for the cluster, or give the server and the proxy the same certificate, ` +
			"or connect with channel_binding=disable.",
	}
	p := serve(t, listenHCL+s.tcp(s.overTLS()...))
	told.check(t, connectError(t, p.dsn("app")))
	y := p.dialTLS(t)
	y.say(asApp("app"), message('p', "SCRAM-SHA-256\x00"+word(9)+"y,,n=,r=x"))
	answer := y.rest()
	if got := messageTypes(t, answer); got != "RE" || !strings.Contains(string(answer), told.message) {
		t.Errorf("the program sent %q, want the server's request and %q", answer, told.message)
	}
}
