package e2e

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/wire"
)

// A standby takes connections and falls silent, at each point of a login. Up to the one where the client's secret comes into
// play the client is served by the other standby and notices nothing but the time; from there on it is told.
func TestFault24SilentAtLogin(t *testing.T) {
	c := sharedCluster(t, versions[0])
	db2 := c.Server("db2")
	beforeStartup := func(f *fakeServer) { f.setAmbush(func(conn net.Conn) { _, _ = wire.ReadOpening(conn); hold(conn) }) }
	for name, test := range map[string]struct {
		tls    bool
		silent func(f *fakeServer)
		play   func(*fakeSession)
		told   bool
	}{
		"after TCP":        {silent: func(f *fakeServer) { f.setAmbush(hold) }},
		"after SSLRequest": {tls: true, silent: beforeStartup},
		"after startup":    {play: func(s *fakeSession) { s.hold() }},
		"in authentication": {play: func(s *fakeSession) {
			s.say(askForSCRAM)
			s.hold()
		}, told: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, leg := startFake(t, db2, test.play), ""
			if test.tls {
				f, leg = startFakeTLS(t, db2, test.play), "backend_tls {\n mode = \"require\"\n }\n authentication = \"relay\""
			}
			p := serve(t, "login_timeout = \"6s\"\n"+listenHCL+backendsHCL([]string{leg},
				backend{"db1", serverAddress(c.Server("db1")), 1}, backend{"db2", serverAddress(db2), 1}, backend{"silent", f.address, 1_000_000}))
			p.waitChange(0, "silent", "replica", "up")
			if test.silent != nil {
				test.silent(f)
			}
			conn, err := pgconn.Connect(testContext(t), p.dsn("app_replica", "channel_binding=disable"))
			if test.told {
				var response *pgconn.PgError
				if !errors.As(err, &response) || response.Code != "57P03" {
					t.Fatalf("login ended with %v, want SQLSTATE 57P03", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := portOf(t, conn); got != port(db2) {
				t.Errorf("session is on port %s, want %s", got, port(db2))
			}
			_ = conn.Close(testContext(t))
			if f.sessions.Load()+f.ambushed.Load() == 0 {
				t.Error("the silent standby was never tried")
			}
		})
	}
}

// hold says nothing until the other side ends the connection.
func hold(conn net.Conn) { (&fakeSession{Conn: conn}).hold() }

// The network takes messages apart, byte by byte, which nobody notices. It breaks in the middle of a row: then the client sees
// the connection end, and no message of the program in a place where none can be.
func TestFault25TornFrames(t *testing.T) {
	r := startServers(t, faultSetup{})
	way := startLine(t, r.db1)
	r.serve(faultSetup{through: map[string]string{"db1": way.address}})
	r.load = startMix(t, r.p, r.db1, map[clientKind]int{writing: 4, inTransaction: 2, reading: 2})
	way.set(lineFault{piece: 1})
	r.wantLogin("app")
	r.load.waitWriters(r.db1, 4)
	r.load.waitAll(r.db1)
	way.set(lineFault{})
	for _, cleanly := range []bool{true, false} {
		conn := connect(t, r.p.dsn("app"))
		way.set(lineFault{cutAfter: 500_000, cleanly: cleanly}) // in the middle of one of ten rows
		_, err := conn.Exec(testContext(t), "SELECT repeat('x', 300000) FROM generate_series(1, 10)").ReadAll()
		if response := (*pgconn.PgError)(nil); err == nil || errors.As(err, &response) {
			t.Errorf("query ended with %v, want the end of the connection", err)
		}
		way.set(lineFault{})
	}
	r.load.waitAll(r.db1)
	r.finish(r.db1)
}

// The network between the program and the primary is slow, and resets connections now and then. Nothing that was acknowledged
// is lost, and nobody hangs.
func TestFault25Resets(t *testing.T) {
	r := startServers(t, faultSetup{})
	way := startLine(t, r.db1)
	r.serve(faultSetup{through: map[string]string{"db1": way.address}})
	r.load = startLoad(t, r.p, r.db1)
	way.set(lineFault{delay: 5 * time.Millisecond})
	for range long(3, 20) {
		at := r.load.now()
		way.reset()
		r.fenced(r.db1, at, crashGoal)
		r.load.waitAll(r.db1)
	}
	way.set(lineFault{})
	r.load.waitAll(r.db1)
	r.finish(r.db1)
}
