package e2e

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// refusal is what a client is told when the program does not serve it.
type refusal struct{ code, message, detail, hint string }

// check compares what a client was told.
func (want refusal) check(t *testing.T, told *pgconn.PgError) {
	t.Helper()
	got := refusal{told.Code, told.Message, told.Detail, told.Hint}
	if got != want {
		t.Errorf("client is told\n got %q\nwant %q", got, want)
	}
	if told.Severity != "FATAL" || told.SeverityUnlocalized != "FATAL" {
		t.Errorf("severity %q (%q), want FATAL", told.Severity, told.SeverityUnlocalized)
	}
}

// connectError connects with pgconn, which must be refused by an error of the protocol, and returns that.
func connectError(t *testing.T, dsn string) *pgconn.PgError {
	t.Helper()
	conn, err := pgconn.Connect(testContext(t), dsn)
	if err == nil {
		_ = conn.Close(testContext(t))
		t.Fatal("connection succeeded, want a refusal")
	}
	var told *pgconn.PgError
	if !errors.As(err, &told) {
		t.Fatalf("error is %v, want one of the protocol", err)
	}
	return told
}

// connect connects with pgconn until the end of the test.
func connect(t *testing.T, dsn string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(testContext(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(testContext(t)) })
	return conn
}

// closedAddress is an address on which nobody listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	return listener.Addr().String()
}

// asUser is a connection string with another role in it.
func asUser(dsn, user, password string) string {
	return strings.Replace(dsn, appUser+":"+appPassword, user+":"+password, 1)
}

// What the front refuses before it looks at any server.
func TestRefusalsOfTheFront(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+clusterHCL(c))
	tlsRequired := refusal{
		"28000", "connection requires TLS", "", "Connect with sslmode=require, or better sslmode=verify-full.",
	}
	t.Run("plaintext", func(t *testing.T) {
		tlsRequired.check(t, connectError(t, p.dsn("app", "sslmode=disable")))
	})
	for _, test := range []struct {
		name string
		sent string
		want refusal
	}{
		{
			"protocol 4", startup(protocol4, "user", appUser),
			refusal{"0A000", "unsupported frontend protocol 4.0: pgreplicaproxy supports protocol 3", "", "Use a client of PostgreSQL 7.4 or newer."},
		},
		{
			"no user", startup(protocol3, "database", "app"),
			refusal{"28000", "no PostgreSQL user name specified in startup packet", "", ""},
		},
		{
			"empty user", startup(protocol3, "user", "", "database", "app"),
			refusal{"28000", "no PostgreSQL user name specified in startup packet", "", ""},
		},
		{
			"user named twice", startup(protocol3, "user", appUser, "user", "postgres", "database", "app"),
			refusal{"08P01", "invalid startup packet", "", ""},
		},
		{
			"database named twice", startup(protocol3, "user", appUser, "database", "app", "database", "postgres"),
			refusal{"08P01", "invalid startup packet", "", ""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := p.dialTLS(t)
			client.say(test.sent)
			test.want.check(t, client.refusal())
		})
	}
	t.Run("protocol 2", func(t *testing.T) { // the form of its time: no length, no fields
		const want = "EFATAL:  unsupported frontend protocol 2.0: pgreplicaproxy supports protocol 3\n\x00"
		for name, dial := range map[string]func(*testing.T) *rawClient{"clear": p.dialRaw, "TLS": p.dialTLS} {
			client := dial(t)
			client.say(startup(protocol2, "user", appUser))
			if got := string(client.rest()); got != want {
				t.Errorf("%s: the program sent %q, want %q", name, got, want)
			}
		}
	})
	t.Run("GSSENCRequest repeated", func(t *testing.T) {
		client := p.dialRaw(t)
		client.say(gssEncRequest, gssEncRequest)
		answer := client.rest()
		if len(answer) == 0 || answer[0] != 'N' || !strings.Contains(string(answer), "C0A000\x00") {
			t.Errorf("the program sent %q, want N and then an error 0A000", answer)
		}
	})
}

// What is refused because of the name of the role or of the database, or because of the kind of session.
func TestRefusalsOfRequests(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+clusterHCL(c))
	monitors := refusal{
		"28000", `role "pgreplicaproxy" is the proxy's own monitor and cannot log in through it`, "",
		"Connect as another role, or set allow_as_client in the monitor block of the proxy's configuration.",
	}
	replication := refusal{
		"28000", `no route takes replication connections for database "app" as user "app"`, "",
		"A route block with replication = true in the proxy's configuration would allow it.",
	}
	for name, test := range map[string]struct {
		dsn  string
		want refusal
	}{
		"monitor's role":          {asUser(p.dsn("app"), monitorUser, monitorPassword), monitors},
		"monitor's role, replica": {asUser(p.dsn("app_replica"), monitorUser, "wrong"), monitors},
		"physical replication":    {p.dsn("app") + "&replication=true", replication},
		"logical replication":     {p.dsn("app") + "&replication=database", replication},
		"replication, odd value": {p.dsn("app") + "&replication=perhaps", refusal{
			"22023", `invalid value for parameter "replication": "perhaps"`, "",
			`Valid values are: "false", 0, "true", 1, "database".`,
		}},
	} {
		t.Run(name, func(t *testing.T) { test.want.check(t, connectError(t, test.dsn)) })
	}
	t.Run("no replication after all", func(t *testing.T) { connect(t, p.dsn("app")+"&replication=off") })

	routed := serve(t, listenHCL+clusterHCL(c)+"route {\n  database = \"app\"\n}\n")
	t.Run("database without a route", func(t *testing.T) {
		connect(t, routed.dsn("app"))
		refusal{
			"3D000", `no route takes database "other" as user "app"`, "",
			"The route blocks of the proxy's configuration say which databases it serves.",
		}.check(t, connectError(t, routed.dsn("other")))
	})
}

// The monitor's role may log in where the file says so.
func TestMonitorAllowedAsClient(t *testing.T) {
	c := sharedCluster(t, versions[0])
	hcl := strings.Replace(clusterHCL(c), "monitor {\n", "monitor {\n    allow_as_client = true\n", 1)
	p := serve(t, listenHCL+hcl)
	connect(t, asUser(p.dsn("app"), monitorUser, monitorPassword))
}

// Without a server for the role a client hears what each server is, and may retry.
func TestRefusalsWithoutServer(t *testing.T) {
	c := sharedCluster(t, versions[0])
	servers := c.Servers()
	closed := closedAddress(t)
	const again = "Retry in a few seconds."
	for _, test := range []struct {
		name     string
		backends []backend
		database string
		message  string
	}{
		{
			"no standby",
			[]backend{{"db1", serverAddress(servers[0]), 0}},
			"app_replica",
			`no replica of cluster "main" can take the session now: db1 is primary`,
		},
		{
			"no primary",
			[]backend{{"db2", serverAddress(servers[1]), 0}, {"db3", serverAddress(servers[2]), 0}},
			"app",
			`no primary of cluster "main" can take the session now: db2 is replica, db3 is replica`,
		},
		{
			"all servers down",
			[]backend{{"db1", closed, 0}},
			"app",
			`no primary of cluster "main" can take the session now: db1 is unknown (connection refused)`,
		},
		{
			"standby down",
			[]backend{{"db1", serverAddress(servers[0]), 0}, {"db2", closed, 0}},
			"app_replica",
			`no replica of cluster "main" can take the session now: db1 is primary, db2 is unknown (connection refused)`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := serve(t, listenHCL+backendsHCL(nil, test.backends...))
			refusal{"57P03", test.message, "", again}.check(t, connectError(t, p.dsn(test.database)))
		})
	}
}

// A server that the monitor believes in, and that no session can be started on.
func TestRefusalsOfUnreachable(t *testing.T) {
	c := sharedCluster(t, versions[0])
	f := startFake(t, c.Servers()[0], func(*fakeSession) {}) // closes the connection
	p := serve(t, listenHCL+backendsHCL(nil, backend{"db1", f.address, 0}))
	refusal{
		"57P03", `no primary of cluster "main" could be reached`, "Tried: [db1].",
		"Retry in a few seconds; the log of pgreplicaproxy says why.",
	}.check(t, connectError(t, p.dsn("app")))
	if f.sessions.Load() == 0 {
		t.Error("the server was not tried")
	}
}

// login_timeout bounds a login, whoever is late.
func TestRefusalsOfLateLogins(t *testing.T) {
	c := sharedCluster(t, versions[0])
	silent := startFake(t, c.Servers()[0], (*fakeSession).hold)
	late := refusal{
		"57P03", "login took too long", "", "Retry; login_timeout in the proxy's configuration bounds a login.",
	}
	const hcl = "login_timeout = \"1s\"\n" + listenHCL
	t.Run("server", func(t *testing.T) {
		p := serve(t, hcl+backendsHCL(nil, backend{"db1", silent.address, 0}))
		late.check(t, connectError(t, p.dsn("app")))
	})
	t.Run("client", func(t *testing.T) {
		p := serve(t, hcl+clusterHCL(c))
		client := p.dialTLS(t)
		client.say(asApp("app")) // and no answer to the server's request
		messages := client.rest()
		if got := messageTypes(t, messages); got != "RE" || !strings.Contains(string(messages), "C57P03\x00M"+late.message+"\x00") {
			t.Errorf("the program sent %q, want the server's request and %q", messages, late.message)
		}
	})
	t.Run("client before its startup packet", func(t *testing.T) {
		p := serve(t, hcl+clusterHCL(c))
		for name, client := range map[string]*rawClient{"TCP": p.dialRaw(t), "TLS": p.dialTLS(t)} {
			if got := client.rest(); len(got) > 0 {
				t.Errorf("%s: the program sent %q to a client that said nothing", name, got)
			}
		}
	})
}

// A server that turns a session away before it asks for anything is passed over while there is another; the last one's
// words reach the client.
func TestTurnedAway(t *testing.T) {
	c := sharedCluster(t, versions[0])
	for _, test := range []struct{ code, message string }{
		{"53300", "sorry, too many clients already"},
		{"57P03", "the database system is starting up"},
	} {
		t.Run(test.code, func(t *testing.T) {
			f := startFake(t, c.Servers()[1], func(s *fakeSession) { s.say(errorMessage(test.code, test.message)) })
			full := backend{"full", f.address, 1_000_000} // is tried first
			p := serve(t, listenHCL+backendsHCL(nil, full, backend{"db3", serverAddress(c.Servers()[2]), 1}))
			connect(t, p.dsn("app_replica"))
			if f.sessions.Load() != 1 {
				t.Errorf("the full server was tried %d times, want 1", f.sessions.Load())
			}
			alone := serve(t, listenHCL+backendsHCL(nil, full))
			refusal{test.code, test.message, "", ""}.check(t, connectError(t, alone.dsn("app_replica")))
		})
	}
}

// What a server says when it refuses a session is what the client reads, to the last field.
func TestServersOwnRefusals(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		primary := c.Servers()[0]
		const crowded = "crowded"
		create := "CREATE ROLE " + crowded + " LOGIN CONNECTION LIMIT 0 PASSWORD '" + appPassword + "'"
		if err := primary.Exec(testContext(t), "postgres", create); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = primary.Exec(testContext(t), "postgres", "DROP ROLE "+crowded) })
		p := serve(t, listenHCL+clusterHCL(c))
		for name, test := range map[string]struct{ database, user, password, code string }{
			"wrong password":           {"app", appUser, "wrong", "28P01"},
			"unknown role":             {"app", "nobody", "wrong", "28P01"},
			"unknown database":         {"nowhere", appUser, appPassword, "3D000"},
			"limit of the role":        {"app", crowded, appPassword, "53300"}, // is found after AuthenticationOk
			"wrong password, no limit": {"app", crowded, "wrong", "28P01"},
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%s", version, name), func(t *testing.T) {
				direct := connectError(t, fmt.Sprintf("postgresql://%s:%s@%s/%s?sslmode=disable",
					test.user, test.password, serverAddress(primary), test.database))
				through := connectError(t, asUser(p.dsn(test.database), test.user, test.password))
				if *through != *direct {
					t.Errorf("client is told\n got %+v\nwant %+v", *through, *direct)
				}
				if through.Code != test.code {
					t.Errorf("SQLSTATE %s, want %s", through.Code, test.code)
				}
			})
		}
	}
}

// A session that is open when the program stops is told so.
func TestRefusalAtShutdown(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+clusterHCL(c))
	conn := connect(t, p.dsn("app"))
	p.signal(syscall.SIGTERM)
	_, err := conn.ReceiveMessage(testContext(t))
	var told *pgconn.PgError
	if !errors.As(err, &told) {
		t.Fatalf("session ended with %v, want an error of the protocol", err)
	}
	refusal{"57P01", "terminating connection because the proxy is shutting down", "", ""}.check(t, told)
}

// psql shows message, detail and hint, with either library.
func TestRefusalsInPsql(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+backendsHCL(nil, backend{"db1", serverAddress(c.Servers()[0]), 0}))
	for library, libDir := range libpqs(t) {
		for name, test := range map[string]struct {
			dsn  string
			want []string
		}{
			"plaintext": {p.dsn("app", "sslmode=disable"), []string{
				"FATAL:  connection requires TLS", "HINT:  Connect with sslmode=require, or better sslmode=verify-full.",
			}},
			"no standby": {p.dsn("app_replica"), []string{
				`FATAL:  no replica of cluster "main" can take the session now: db1 is primary`, "HINT:  Retry in a few seconds.",
			}},
			"monitor's role": {asUser(p.dsn("app"), monitorUser, monitorPassword), []string{
				`FATAL:  role "pgreplicaproxy" is the proxy's own monitor`, "HINT:  Connect as another role",
			}},
			"server's own": {asUser(p.dsn("app"), appUser, "wrong"), []string{
				`FATAL:  password authentication failed for user "app"`,
			}},
		} {
			t.Run(library+"/"+name, func(t *testing.T) {
				_, stderr, err := psql(t, libDir, test.dsn, "-c", "SELECT 1")
				if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 {
					t.Errorf("psql ended with %v, want exit status 2", err)
				}
				for _, want := range test.want {
					if !strings.Contains(stderr, want) {
						t.Errorf("psql prints %q, want %q in it", stderr, want)
					}
				}
			})
		}
	}
}
