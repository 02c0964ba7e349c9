package e2e

import (
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/internal/scram"
)

// passthroughServer is one server whose pg_hba.conf asks some roles for another proof than SCRAM, and which logs every
// connection.
func passthroughServer(t *testing.T, version int) *pgcluster.Cluster {
	t.Helper()
	c := startCluster(t, pgcluster.Config{
		Installation: installation(t, version), TLS: serverCertificate,
		HBA: []string{
			"host all by_trust 127.0.0.1/32 trust", "host all by_md5 127.0.0.1/32 md5", "host all by_password 127.0.0.1/32 password",
		},
		Settings: map[string]string{"log_connections": "on", "log_line_prefix": "pid=%p "},
	})
	createRoles(t, c, map[string]string{
		"by_trust": "LOGIN PASSWORD '" + appPassword + "'", "by_md5": "LOGIN PASSWORD '" + appPassword + "'",
		"by_password": "LOGIN PASSWORD '" + appPassword + "'",
	})
	return c
}

// createRoles makes roles with these attributes. Their names need no quotes but those they have.
func createRoles(t *testing.T, c *pgcluster.Cluster, roles map[string]string) {
	t.Helper()
	for name, attributes := range roles {
		if err := c.Servers()[0].Exec(testContext(t), "postgres", "CREATE ROLE "+name+" "+attributes); err != nil {
			t.Fatal(err)
		}
	}
}

// secretText is a secret as pg_authid has it.
func secretText(s scram.Secret) string {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", s.Iterations, encode(s.Salt), encode(s.StoredKey[:]), encode(s.ServerKey[:]))
}

// Nobody who has not proven a password reaches a server: no connection comes from the program but the monitor's. So trust
// for its address lets nobody in.
func TestPassthroughKeepsStrangersOut(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := passthroughServer(t, version)
			installSecretFunction(t, c)
			p := serve(t, listenHCL+passthroughHCL(t, c))
			for range 20 {
				for _, role := range []string{appUser, "by_trust", "nobody", "postgres"} {
					if told := connectError(t, asUser(p.dsn("app"), role, "wrong")); told.Code != "28P01" {
						t.Errorf("%s is told %v, want 28P01", role, told)
					}
				}
			}
			quitter := p.dialTLS(t)
			quitter.say(asApp("app"))
			quitter.closeWrite()
			_ = quitter.rest()
			checkMonitorAlone(t, c.Servers()[0])

			for _, role := range []string{appUser, "by_trust", "by_md5"} { // md5 in pg_hba.conf is SCRAM for a SCRAM secret
				if got := query(t, asUser(p.dsn("app"), role, appPassword), "SELECT current_user"); got != role {
					t.Errorf("role %s is %q on the server", role, got)
				}
			}
			refusal{
				"28000", `server "db1" does not ask for SCRAM authentication`, "",
				"Let pg_hba.conf on the server ask for scram-sha-256 for the proxy's address.",
			}.check(t, connectError(t, asUser(p.dsn("app"), "by_password", appPassword)))
		})
	}
}

// checkMonitorAlone wants every connection by TCP that a server has logged to be the monitor's, but for the two a minute with
// which the program sees itself whether the server asks for passwords.
func checkMonitorAlone(t *testing.T, s *pgcluster.Server) {
	t.Helper()
	began := time.Now()
	received := regexp.MustCompile(`(?m)^(pid=\d+ ).*connection received: host=127`)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(s.LogFile)
		if err != nil {
			t.Fatal(err)
		}
		all, others := received.FindAllStringSubmatch(string(text), -1), 0
		for _, m := range all {
			authorized := regexp.MustCompile("(?m)^" + m[1] + ".*connection authorized: user=" + monitorUser + " ")
			if !authorized.Match(text) {
				others++
			}
		}
		if len(all) > 0 && others <= 2 {
			return
		}
		if time.Now().After(deadline) { // one of the monitor's logins may be under way until then
			t.Errorf("the server was reached by %d connections of others, of %d in %v", others, len(all), time.Since(began))
			return
		}
	}
}

// Which roles log in, and what the others are told: the same as for a wrong password.
func TestPassthroughRoles(t *testing.T) {
	long := scram.NewSecret("long-secret", []byte("a salt of the test, of 32 bytes."), 4096)
	huge := scram.NewSecret("huge-secret", []byte(strings.Repeat("salt", 32)), 4096)
	const unicode = "\u2168\u00a0pass\u00adword" // RFC 4013: roman numeral nine, no-break space, soft hyphen
	for _, version := range versions {
		c := passthroughServer(t, version)
		installSecretFunction(t, c)
		createRoles(t, c, map[string]string{
			"with_super": "LOGIN SUPERUSER PASSWORD 'secret'", "expired": "LOGIN PASSWORD 'secret' VALID UNTIL '2000-01-01'",
			"without": "LOGIN", "nologin": "PASSWORD 'secret'", "late": "LOGIN PASSWORD 'secret' VALID UNTIL '2100-01-01'",
			"hasty": "LOGIN PASSWORD '" + scramSecret(t, "hasty-secret", 1) + "'", "salted": "LOGIN PASSWORD '" + secretText(long) + "'",
			"huge": "LOGIN PASSWORD '" + secretText(huge) + "'", "preparing": "LOGIN PASSWORD '" + unicode + "'",
			"hashed":              "LOGIN PASSWORD 'md5" + fmt.Sprintf("%x", md5.Sum([]byte("secrethashed"))) + "'",
			`"O'Brien ""$1"" \\"`: "LOGIN PASSWORD 'secret'",
		})
		p := serve(t, listenHCL+passthroughHCL(t, c))
		for _, test := range []struct {
			role, password string
			accepted       bool
		}{
			{"with_super", "secret", false},
			{"expired", "secret", false},
			{"without", "secret", false},
			{"without", "x", false},
			{"nologin", "secret", false},
			{"hashed", "secret", false},
			{"nobody", "secret", false},
			{"late", "secret", true},
			{"hasty", "hasty-secret", true},
			{"hasty", "wrong", false},
			{"salted", "long-secret", true},
			{"huge", "huge-secret", true},
			{"preparing", unicode, true},
			{"preparing", "IX password", true},
			{"preparing", "IXpassword", false},
			{`O'Brien "$1" \\`, "secret", true},
			{`O'Brien "$1" \\`, "wrong", false},
			{"APP", appPassword, false},
			{"\xff\xfe", "secret", false},
			{strings.Repeat("x", 1000), "secret", false},
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%.20q with %s", version, test.role, test.password), func(t *testing.T) {
				dsn := asUser(p.dsn("app", "channel_binding=require", "sslmode=verify-full", "sslrootcert="+p.rootFile()),
					url.PathEscape(test.role), url.PathEscape(test.password))
				for name, libDir := range libpqs(t) {
					_, stderr, err := psql(t, libDir, dsn, "-c", "SELECT 1")
					want := "FATAL:  password authentication failed for user \""
					if (err == nil) != test.accepted || err != nil && !strings.Contains(stderr, want) {
						t.Errorf("%s: %v: %s", name, err, stderr)
					}
				}
			})
		}
		refusal{
			"28000", fmt.Sprintf("role %q is the proxy's own monitor and cannot log in through it", monitorUser), "",
			"Connect as another role, or set allow_as_client in the monitor block of the proxy's configuration.",
		}.check(t, connectError(t, asUser(p.dsn("app"), monitorUser, monitorPassword)))
		// Changes of a role are seen although its secret is remembered (CVE-2025-2291 of PgBouncer).
		connect(t, asUser(p.dsn("app"), "late", "secret"))
		for _, change := range []string{"VALID UNTIL '2000-01-01'", "VALID UNTIL 'infinity' NOLOGIN", "LOGIN PASSWORD NULL"} {
			if err := c.Servers()[0].Exec(testContext(t), "postgres", "ALTER ROLE late "+change); err != nil {
				t.Fatal(err)
			}
			if told := connectError(t, asUser(p.dsn("app"), "late", "secret")); told.Code != "28P01" {
				t.Errorf("after %s the client is told %v, want 28P01", change, told)
			}
		}
	}
}

// Without the function nobody logs in, and the log says what to do. Once it is there no restart is needed.
func TestPassthroughWithoutFunction(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := passthroughServer(t, version)
			p := serve(t, listenHCL+passthroughHCL(t, c))
			told := refusal{
				"57P03", `no server of cluster "main" could be asked for the role's secret`, "",
				"Retry in a few seconds; the log of pgreplicaproxy says why.",
			}
			check := func() {
				t.Helper()
				told.check(t, connectError(t, p.dsn("app")))
				entry := p.waitLog("session refused", map[string]any{"user": appUser})
				if text := fmt.Sprint(entry["err"]); !strings.Contains(text, "run what `pgreplicaproxy sql` prints on the primary") {
					t.Errorf("the log says %q", text)
				}
			}
			check()
			installSecretFunction(t, c)
			connect(t, p.dsn("app"))
			revoke := "REVOKE EXECUTE ON FUNCTION pgreplicaproxy.scram_secret(text) FROM " + monitorUser
			if err := c.Servers()[0].Exec(testContext(t), "postgres", revoke); err != nil {
				t.Fatal(err)
			}
			told.check(t, connectError(t, asUser(p.dsn("app"), "by_trust", appPassword)))
			installSecretFunction(t, c)
			connect(t, asUser(p.dsn("app"), "by_trust", appPassword))
		})
	}
}

// CVE-2025-12819 (PgBouncer): neither what a client sends for its session nor what the monitor's role has set leads the
// lookup to functions and tables that somebody else made.
func TestPassthroughSearchPath(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := passthroughServer(t, version)
			installSecretFunction(t, c)
			secret := secretText(scram.NewSecret("evil", []byte("evil salt"), 4096))
			for _, sql := range []string{
				"CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO public",
				"CREATE TABLE evil.pg_authid AS SELECT 'app'::name AS rolname, true AS rolcanlogin, false AS rolsuper, " +
					"NULL::timestamptz AS rolvaliduntil, '" + secret + "'::text AS rolpassword; GRANT SELECT ON evil.pg_authid TO public",
				"CREATE FUNCTION evil.scram_secret(text) RETURNS text LANGUAGE sql AS $$SELECT '" + secret + "'$$",
				"CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
				"CREATE FUNCTION evil.same(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
				"CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.same)",
				"CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$SELECT '7'$$",
				"ALTER ROLE " + monitorUser + " SET search_path = evil, pg_catalog",
			} {
				if err := c.Servers()[0].Exec(testContext(t), "postgres", sql); err != nil {
					t.Fatal(err)
				}
			}
			p := serve(t, listenHCL+passthroughHCL(t, c))
			for _, params := range []string{
				"", "&options=-csearch_path%3Devil,pg_catalog", "&search_path=evil,pg_catalog", "&options=-crole%3Dby_trust",
				"&options=-csession_authorization%3Dby_trust",
			} {
				told := connectError(t, asUser(p.dsn("app"), appUser, "evil")+params)
				if want := `password authentication failed for user "app"`; told.Code != "28P01" || told.Message != want {
					t.Errorf("%q: the client is told %v, want %s", params, told, want)
				}
				if params != "&options=-crole%3Dby_trust" && params != "&options=-csession_authorization%3Dby_trust" {
					connect(t, p.dsn("app")+params)
				}
			}
		})
	}
}

// Secrets may come from a file, which SIGHUP reads again.
func TestPassthroughSecretsFile(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := passthroughServer(t, version) // without the function
			primary, file := c.Servers()[0], filepath.Join(t.TempDir(), "secrets.txt")
			write := func(text string) {
				t.Helper()
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			writeSecret := func() {
				t.Helper()
				secret, err := primary.QueryString(testContext(t), "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")
				if err != nil {
					t.Fatal(err)
				}
				write("; roles of the test\n\"app\" \"" + secret + "\"\n")
			}
			writeSecret()
			p := serve(t, listenHCL+passthroughHCL(t, c, fmt.Sprintf("secrets_file = %q", file)))
			connect(t, p.dsn("app", "channel_binding=require", "sslmode=verify-full", "sslrootcert="+p.rootFile()))
			for _, role := range []string{"by_trust", "nobody"} { // not in the file
				if told := connectError(t, asUser(p.dsn("app"), role, appPassword)); told.Code != "28P01" {
					t.Errorf("%s is told %v, want 28P01", role, told)
				}
			}
			if err := primary.Exec(testContext(t), "postgres", "ALTER ROLE app PASSWORD 'another-secret'"); err != nil {
				t.Fatal(err)
			}
			changed := asUser(p.dsn("app"), appUser, "another-secret")
			checkState(t, connectError(t, changed), "28P01")      // the file does not know
			checkState(t, connectError(t, p.dsn("app")), "57P03") // the server does
			writeSecret()
			p.signal(syscall.SIGHUP)
			p.waitLog("configuration reloaded", nil)
			connect(t, changed)
			checkState(t, connectError(t, p.dsn("app")), "28P01")
			write("\"app\" \"md5something\"\n")
			p.signal(syscall.SIGHUP)
			p.waitLog("configuration not reloaded, the old one stays", nil)
			connect(t, changed)
		})
	}
}
