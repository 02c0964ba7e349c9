package e2e

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// limitsHCL is a limits block.
func limitsHCL(lines ...string) string {
	return "limits {\n  " + strings.Join(lines, "\n  ") + "\n}\n"
}

// Each limit of sessions is told by its name, and a place that is free again can be taken.
func TestLimits(t *testing.T) {
	c := sharedCluster(t, versions[0])
	for _, test := range []struct{ limit, message string }{
		{"connections", "sorry, too many clients already"},
		{"connections_per_address", "sorry, too many connections from 127.0.0.1"},
		{"connections_per_prefix", "sorry, too many connections from 127.0.0.0/24"},
		{"connections_per_user", `sorry, too many connections of user "app"`},
		{"connections_per_database", `sorry, too many connections to database "app"`},
	} {
		t.Run(test.limit, func(t *testing.T) {
			p := serve(t, listenHCL+limitsHCL(test.limit+" = 2")+clusterHCL(c))
			connect(t, p.dsn("app"))
			second := connect(t, p.dsn("app_replica"))
			refusal{
				"53300", test.message, "", "Retry later; " + test.limit + " in the limits block of the proxy's configuration sets it.",
			}.check(t, connectError(t, p.dsn("app")))
			if err := second.Close(testContext(t)); err != nil {
				t.Fatal(err)
			}
			p.waitLog("session closed", nil)
			connect(t, p.dsn("app"))
		})
	}
	t.Run("reserved", func(t *testing.T) {
		p := serve(t, listenHCL+limitsHCL("connections = 2", "reserved {", "  places = 1", `  users = ["nobody"]`, "}")+clusterHCL(c))
		connect(t, p.dsn("app"))
		if got := connectError(t, p.dsn("app")); got.Message != "sorry, remaining connection places are reserved" {
			t.Errorf("got %v", got)
		}
		// Whoever claims to be the one they are kept for is asked for the password.
		if got := connectError(t, asUser(p.dsn("app"), "nobody", "guess")); got.Code != "28P01" {
			t.Errorf("got %v, want 28P01", got)
		}
	})
	t.Run("max_sessions", func(t *testing.T) {
		hcl := strings.Replace(clusterHCL(c), fmt.Sprintf("backend %q {", c.Servers()[0].Name), fmt.Sprintf("backend %q {\n    max_sessions = 1", c.Servers()[0].Name), 1)
		p := serve(t, listenHCL+hcl)
		connect(t, p.dsn("app"))
		connect(t, p.dsn("app_replica"))
		refusal{
			"53300", fmt.Sprintf("sorry, too many sessions on server %q", c.Servers()[0].Name), "",
			"Retry later; max_sessions in the backend block of the proxy's configuration sets it.",
		}.check(t, connectError(t, p.dsn("app")))
	})
}

// While strangers hold every place for logins, the others are told so over TLS, and queries can be cancelled.
func TestLimitOfLogins(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+limitsHCL("logins = 2")+oneStandby(c))
	ctx := testContext(t)
	session := connect(t, p.dsn("app"))
	strangers := []*rawClient{p.dialRaw(t), p.dialRaw(t)}
	for _, s := range strangers { // the answer says that it was let in
		s.say(gssEncRequest)
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	refusal{
		"53300", "sorry, too many clients are logging in already", "",
		"Retry later; logins in the limits block of the proxy's configuration sets it.",
	}.check(t, connectError(t, p.dsn("app")))
	if _, stderr, err := psql(t, "", p.dsn("app"), "-c", "SELECT 1"); err == nil || !strings.Contains(stderr, "too many clients are logging in") {
		t.Errorf("psql printed %q, %v", stderr, err)
	}
	for name, dial := range cancelWays {
		t.Run("cancel over "+name, func(t *testing.T) {
			ended := startQuery(ctx, session, endless("limit_of_logins"))
			waitActive(t, c.Servers()[0], "limit_of_logins")
			client := dial(p, t)
			client.say(cancelRequest(session.PID(), session.SecretKey()))
			client.rest()
			checkState(t, <-ended, "57014")
		})
	}
	for _, s := range strangers {
		address := s.LocalAddr().String()
		_ = s.Close()
		p.waitLog("connection refused", map[string]any{"client": address})
	}
	connect(t, p.dsn("app"))
}

// Guessing is slowed down for the user and the address it comes from, whether the role exists or not, and for nobody else.
func TestThrottle(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	throttle := limitsHCL("throttle {", "  failures = 2", `  delay = "1h"`, `  max_delay = "1h"`, "}")
	for name, hcl := range map[string]string{
		"relay": clusterHCL(c), "scram_passthrough": passthroughHCL(t, c),
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, listenHCL+throttle+hcl)
			fail := func(user string) {
				t.Helper()
				if got := connectError(t, asUser(p.dsn("app"), user, "guess")); got.Code != "28P01" {
					t.Errorf("%s: got %v, want 28P01", user, got)
				}
			}
			fail(appUser)
			connect(t, p.dsn("app"))
			fail(appUser) // the first again
			fail("nobody")
			fail(appUser)
			fail("nobody")
			for _, user := range []string{appUser, "nobody"} {
				for _, password := range []string{"guess", appPassword} {
					refusal{
						"53300", fmt.Sprintf("too many failed logins of user %q from this address", user), "",
						"Retry in 3600 s, with the right password.",
					}.check(t, connectError(t, asUser(p.dsn("app_replica"), user, password)))
				}
			}
			fail("somebody")
			client := p.dialTLS(t)
			client.say(asApp("app"))
			if got := client.refusal(); got.Code != "53300" {
				t.Errorf("asked for a password: got %v", got)
			}
		})
	}
}

// Several instances behind one address share nothing: a CancelRequest that reaches the wrong one goes to every server, if the
// file says so, and no more often than a few times a second.
func TestCancelAtAnotherInstance(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprintf("PostgreSQL %d", version), func(t *testing.T) {
			c := sharedCluster(t, version)
			one := serve(t, listenHCL+oneStandby(c, "broadcast_cancels = true"))
			other := serve(t, listenHCL+oneStandby(c, "broadcast_cancels = true"))
			for database, server := range onServer(c) {
				conn := connect(t, one.dsn(database, "sslmode=verify-full", "sslrootcert="+one.rootFile(), "max_protocol_version=latest"))
				ended := startQuery(testContext(t), conn, endless("elsewhere"))
				waitActive(t, server, "elsewhere")
				client := other.dialTLS(t)
				client.say(cancelRequest(conn.PID(), conn.SecretKey()))
				client.rest()
				checkState(t, <-ended, "57014")
			}
		})
	}
}

// A flood of cancel requests from strangers reaches a server only drop by drop.
func TestAttackCancelFlood(t *testing.T) {
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], welcoming)
	for broadcast, most := range map[string]int64{"true": 40, "false": 0} {
		p := serveFake(t, f, append(trustHCL, "broadcast_cancels = "+broadcast)...)
		before := f.cancels.Load()
		for i := range 200 {
			client := p.dialRaw(t)
			client.say(cancelRequest(uint32(i+1), []byte("0123")))
			client.rest()
		}
		if n := f.cancels.Load() - before; n > most || broadcast == "true" && n == 0 {
			t.Errorf("broadcast_cancels = %s: %d of 200 requests reached the server, want %d at most", broadcast, n, most)
		}
	}
}
