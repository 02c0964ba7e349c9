package e2e

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// silenceGoal is how long the sessions of a server may live that says nothing any more: one interval and three times the
// monitor's timeout.
const silenceGoal = 4 * time.Second

// How long a login may take: while all come at once, on a machine that may be busy, and while none can succeed.
const patientLogins, briefLogins = "login_timeout = \"60s\"", "login_timeout = \"2s\""

// A postmaster hangs and its children work on: nobody can log in, and who is in notices nothing, so the program lets them work
// and keeps others away. But not for ever: a primary that lets nobody in for long is given up.
func TestFault05FreezePostmaster(t *testing.T) {
	r := startFault(t, faultSetup{hcl: patientLogins + "\n"})
	r.reconfigure(patientLogins, briefLogins)
	at, seen := r.load.now(), r.p.logged()
	r.must(r.db1.FreezePostmaster())
	r.wantNoLogin("app")
	r.p.waitChange(seen, "db1", "unknown", "no login")
	r.load.waitAll(r.db1)
	r.must(r.db1.ThawPostmaster())
	r.p.waitChange(seen, "db1", "primary", "up")
	r.reconfigure(briefLogins, patientLogins)
	r.wantLogin("app")
	for _, ended := range r.load.endings(r.db1, at) {
		t.Errorf("a %s session ended: %v", ended.kind, ended.err)
	}
	if chaos {
		at = r.load.now()
		r.must(r.db1.FreezePostmaster())
		r.fenced(r.db1, at, loginGoal)
		r.must(r.db1.ThawPostmaster())
		r.load.waitAll(r.db1)
	}
	r.finish(r.db1)
}

// loginGoal is how long the sessions of a primary may live into which nobody can log in: three times the life of the monitor's
// own sessions, and the time until it first finds out.
const loginGoal = 45 * time.Second

// wantLogin expects that a client is served.
func (r *faultRig) wantLogin(database string) {
	r.t.Helper()
	_ = connect(r.t, r.p.dsn(database)).Close(testContext(r.t))
}

// wantNoLogin expects that a client is refused.
func (r *faultRig) wantNoLogin(database string) {
	r.t.Helper()
	conn, err := pgconn.Connect(testContext(r.t), r.p.dsn(database))
	if err == nil {
		r.t.Errorf("a session of %s is served on port %s", database, portOf(r.t, conn))
		_ = conn.Close(testContext(r.t))
	}
}

// The whole server hangs for a while, and then goes on as if nothing had happened. By then nobody may listen to it.
func TestFault06Freeze(t *testing.T) {
	r := startFault(t, faultSetup{})
	at, seen := r.load.now(), r.p.logged()
	r.must(r.db1.Freeze())
	r.fenced(r.db1, at, silenceGoal)
	for _, ended := range r.load.endings(r.db1, at) {
		if response := (*pgconn.PgError)(nil); !errors.As(ended.err, &response) || response.Code != "57P01" {
			t.Errorf("a %s session ended with %v, want SQLSTATE 57P01", ended.kind, ended.err)
		}
	}
	r.p.waitChange(seen, "db1", "unknown", "silent")
	seen = r.p.logged()
	r.must(r.db1.Thaw())
	r.p.waitChange(seen, "db1", "primary", "up")
	r.load.waitAll(r.db1)
	r.wantUndisturbed(at, reading)
	r.finish(r.db1)
}

// Every packet between the program and the primary vanishes. The clients are told, and nothing is left waiting.
func TestFault07BlackHole(t *testing.T) {
	r := startServers(t, faultSetup{settings: noticeClients})
	way := startCuttable(t, r.db1)
	r.serve(faultSetup{through: map[string]string{"db1": way.address}})
	r.load = startLoad(t, r.p, r.db1)
	at, seen := r.load.now(), r.p.logged()
	way.cut()
	r.fenced(r.db1, at, silenceGoal)
	for _, ended := range r.load.endings(r.db1, at) {
		if response := (*pgconn.PgError)(nil); !errors.As(ended.err, &response) || response.Code != "57P01" {
			t.Errorf("a %s session ended with %v, want SQLSTATE 57P01", ended.kind, ended.err)
		}
	}
	r.wantUndisturbed(at, reading)
	way.heal()
	r.p.waitChange(seen, "db1", "primary", "up")
	r.load.waitAll(r.db1)
	r.finish(r.db1)
}

// Every packet between some clients and the program vanishes, and then the server of their sessions does. That the program
// cannot tell these clients keeps nobody else waiting, and their sessions keep nothing on the servers.
func TestFault08ClientBlackHole(t *testing.T) {
	r := startServers(t, faultSetup{})
	r.serve(faultSetup{everywhere: true})
	r.load = startLoad(t, r.p, r.db1)
	way := startCuttableTo(t, r.p)
	for range 8 {
		config, err := pgconn.ParseConfig(r.p.dsn("app", "application_name=cut-off"))
		if err != nil {
			t.Fatal(err)
		}
		config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return way.dial() }
		conn, err := pgconn.ConnectConfig(testContext(t), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(testContext(t)) })
		ask(t, conn, "BEGIN; SELECT 1")
	}
	way.cut()
	if chaos { // nobody speaks on these connections: the kernel asks, and gives them up
		const longest = 8 * time.Minute
		gone := "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'cut-off'"
		for deadline := time.Now().Add(longest); !r.isTrue(r.db1, gone); time.Sleep(time.Second) {
			if time.Now().After(deadline) {
				t.Fatalf("sessions of clients that are gone are still there after %v", longest)
			}
		}
	}
	at := r.load.now()
	r.must(r.db1.Kill())
	r.fenced(r.db1, at, crashGoal)
	r.must(r.db1.Start(testContext(t)))
	r.load.waitAll(r.db1)
	r.finish(r.db1)
}

// Logins hang in a lock while those who are in work on. Nobody is sent there, nobody is sent away, and afterwards all is as
// before.
func TestFault32LoginsLocked(t *testing.T) {
	r := startFault(t, faultSetup{hcl: patientLogins + "\n"})
	r.reconfigure(patientLogins, briefLogins)
	at, seen := r.load.now(), r.p.logged()
	lock, err := r.db1.Conn(testContext(t), "postgres")
	r.must(err)
	t.Cleanup(func() { _ = lock.Close(testContext(t)) })
	ask(t, lock, "BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
	r.wantNoLogin("app")
	r.p.waitChange(seen, "db1", "unknown", "no login")
	r.load.waitAll(r.db1)
	ask(t, lock, "ROLLBACK")
	r.p.waitChange(seen, "db1", "primary", "up")
	r.reconfigure(briefLogins, patientLogins)
	r.wantLogin("app")
	for _, ended := range r.load.endings(r.db1, at) {
		t.Errorf("a %s session ended: %v", ended.kind, ended.err)
	}
	r.finish(r.db1)
}
