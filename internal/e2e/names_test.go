package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// conninfo writes a connection string of keywords and values, through the program, with every value quoted.
func (f front) conninfo(user, database string) string {
	f.t.Helper()
	host, port, _ := strings.Cut(f.addr, ":")
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	info := fmt.Sprintf("host='%s' port='%s' sslmode=verify-full sslrootcert='%s' channel_binding=disable user='%s' password='%s'",
		host, port, quote(f.rootFile()), quote(user), appPassword)
	if database != "" {
		info += fmt.Sprintf(" dbname='%s'", quote(database))
	}
	return info
}

// createRole makes a role that logs in, until the end of the test.
func createRole(t *testing.T, c *pgcluster.Cluster, name string) {
	t.Helper()
	quoted := pgx.Identifier{name}.Sanitize()
	onAll(t, c, "CREATE ROLE "+quoted+" LOGIN PASSWORD '"+appPassword+"'")
	t.Cleanup(func() { onAll(t, c, "DROP ROLE "+quoted) })
}

// createDatabase makes a database, until the end of the test.
func createDatabase(t *testing.T, c *pgcluster.Cluster, name, owner string) {
	t.Helper()
	quoted := pgx.Identifier{name}.Sanitize()
	onAll(t, c, "CREATE DATABASE "+quoted+" OWNER "+pgx.Identifier{owner}.Sanitize())
	t.Cleanup(func() { onAll(t, c, "DROP DATABASE "+quoted+" WITH (FORCE)") })
}

// onAll runs SQL on the primary and waits until the standbys have what it did.
func onAll(t *testing.T, c *pgcluster.Cluster, sql string) {
	t.Helper()
	if err := c.Servers()[0].Exec(testContext(t), "postgres", sql); err != nil {
		t.Fatal(err)
	}
	waitStandbys(t, c)
}

// waitStandbys waits until the standbys have all that the primary has.
func waitStandbys(t *testing.T, c *pgcluster.Cluster) {
	t.Helper()
	for _, standby := range c.Servers()[1:] {
		if err := standby.WaitReplay(testContext(t), c.Servers()[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// whoAmI names user and database of a session and tells whether its server is a standby.
const whoAmI = "SELECT concat_ws(' in ', quote_ident(current_user), quote_ident(current_database()), pg_is_in_recovery())"

func checkWho(t *testing.T, got, user, database string, standby bool) {
	t.Helper()
	quote := func(name string) string { // as quote_ident does
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
			return name
		}
		return pgx.Identifier{name}.Sanitize()
	}
	want := fmt.Sprintf("%s in %s in %.1s", quote(user), quote(database), fmt.Sprint(standby))
	if got != want {
		t.Errorf("session is of %q, want %q", got, want)
	}
}

// PostgreSQL allows any name for roles and databases, and the program passes them on as they are.
func TestNames(t *testing.T) {
	names := []string{
		" two words ", `"quoted"`, `it's`, `back\slash`, "UPPER", "a=b&c?d#e/f;%s", "line\nbreak", "ünïcödé 🐘", "e\u0301", "$user",
		"_replica", "app_replica_", strings.Repeat("n", 63),
	}
	eachFront(t, func(t *testing.T, f front) {
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				createRole(t, f.cluster, name)
				createDatabase(t, f.cluster, name, name)
				for database, standby := range map[string]bool{name: false, name + "_replica": true} {
					out := mustPsql(t, f.conninfo(name, database), "-c", whoAmI)
					checkWho(t, out, name, name, standby)
					conn, err := pgx.Connect(testContext(t), f.conninfo(name, database))
					if err != nil {
						t.Fatal(err)
					}
					checkWho(t, value[string](t, conn, whoAmI), name, name, standby)
					if err := conn.Close(testContext(t)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
}

// A database whose own name ends in the suffix is reached by a route that names it, its standbys by the suffix once more.
func TestDatabaseNamedLikeAReplica(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		createDatabase(t, c, "app_replica", appUser)
		p := front{serve(t, listenHCL+clusterHCL(c)+
			"route {\n  database_suffix = \"_replica\"\n  role = \"replica\"\n}\nroute {}\nroute {\n  database = \"app_replica\"\n}\n"), c}
		for _, test := range []struct {
			asked, database string
			standby         bool
		}{
			{"app", "app", false},
			{"app_replica", "app_replica", false},
			{"app_replica_replica", "app_replica", true},
			{"postgres_replica", "postgres", true},
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%s", version, test.asked), func(t *testing.T) {
				checkWho(t, query(t, p.dsn(test.asked), whoAmI), appUser, test.database, test.standby)
			})
		}
	}
}

// A client that names no database means the one named like its user, and a user's name may end in the suffix.
func TestUserNames(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		createRole(t, f.cluster, "reader_replica")
		createDatabase(t, f.cluster, "reader", "reader_replica")
		for _, test := range []struct {
			user, asked, database string
			standby               bool
		}{
			{appUser, "", "app", false},
			{"reader_replica", "app", "app", false},
			{"reader_replica", "app_replica", "app", true},
			{"reader_replica", "", "reader", true}, // a database's name like any other
		} {
			t.Run(test.user+" in "+test.asked, func(t *testing.T) {
				info := f.conninfo(test.user, test.asked)
				checkWho(t, mustPsql(t, info, "-c", whoAmI), test.user, test.database, test.standby)
				for _, named := range []bool{false, true} { // in the startup packet, though it be empty
					config, err := pgx.ParseConfig(info)
					if err != nil {
						t.Fatal(err)
					}
					config.Database = ""
					if named || test.asked != "" {
						config.RuntimeParams["database"] = test.asked
					}
					conn, err := pgx.ConnectConfig(testContext(t), config)
					if err != nil {
						t.Fatal(err)
					}
					checkWho(t, value[string](t, conn, whoAmI), test.user, test.database, test.standby)
					if err := conn.Close(testContext(t)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
}

// What a client says in its startup packet reaches the server, and the server's answers the client.
func TestStartupOptions(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		for _, database := range []string{"app", "app_replica"} {
			conn := f.connect(t, database, "application_name=end%20to%20end", "datestyle=German",
				"options=-c%20search_path%3D%22odd%5C%20schema%22,public%20-c%20work_mem%3D7MB")
			for sql, want := range map[string]string{
				"SHOW search_path": `"odd schema",public`,
				"SHOW work_mem":    "7MB",
				"SHOW datestyle":   "German, DMY",
				"SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()": "end to end",
			} {
				if got := value[string](t, conn, sql); got != want {
					t.Errorf("%s: %s is %q, want %q", database, sql, got, want)
				}
			}
			for name, want := range map[string]string{
				"DateStyle":        "German, DMY",
				"application_name": "end to end",
				"in_hot_standby":   map[bool]string{true: "on", false: "off"}[database == "app_replica"],
			} {
				if got := conn.PgConn().ParameterStatus(name); got != want {
					t.Errorf("%s: client was told that %s is %q, want %q", database, name, got, want)
				}
			}
			_, err := pgx.Connect(testContext(t), f.dsn(database, "no_such_parameter=1"))
			checkState(t, err, "42704")
		}
	})
}
