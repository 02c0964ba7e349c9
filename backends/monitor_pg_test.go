package backends

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/policy"
)

// startCluster starts real servers for the length of the test, with a role for the monitor.
func startCluster(t *testing.T, config pgcluster.Config) *pgcluster.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	found, err := pgcluster.Find(0)
	if err != nil {
		if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs PostgreSQL: ", err)
	}
	config.Installation = found
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cluster, err := pgcluster.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	do(t, cluster.Server("db1").Exec(ctx, "postgres", "CREATE ROLE monitor LOGIN PASSWORD 's3cr3t'"))
	for _, s := range cluster.Servers()[1:] {
		do(t, s.WaitReplay(ctx, cluster.Server("db1")))
	}
	return cluster
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// over is the way to a real server by TCP.
func over(s *pgcluster.Server, mode TLSMode) Target {
	t := target(net.JoinHostPort(s.Host, strconv.Itoa(s.Port)), mode)
	t.Name = s.Name
	return t
}

// A standby is promoted beside its primary, which is left without one: the standby succeeds it for good.
func TestRealPromotion(t *testing.T) {
	noLeaks(t)
	cluster := startCluster(t, pgcluster.Config{Standbys: 1})
	db1, db2 := cluster.Server("db1"), cluster.Server("db2")
	m, log := monitor(t, MonitorConfig{Targets: []Target{over(db1, TLSOff), over(db2, TLSOff)}})
	one := awaitServer(t, m, "db1", policy.Primary, Up)
	two := awaitServer(t, m, "db2", policy.Replica, Up)
	if one.SystemIdentifier == "" || one.SystemIdentifier != two.SystemIdentifier || one.Timeline != 1 || two.Timeline != 0 ||
		one.ServerVersion == "" || one.LeafHash != [32]byte{} {
		t.Errorf("states are %+v and %+v", one, two)
	}
	log.await(t, "db1", 1) // what they are, and no more
	log.await(t, "db2", 1)

	do(t, db2.Promote(within(t)))
	two = awaitServer(t, m, "db2", policy.Primary, Up)
	one = awaitServer(t, m, "db1", policy.Unknown, Quarantined)
	if two.Timeline != 2 || two.Reason != "it was promoted, and db1 has no standby left" {
		t.Errorf("states are %+v and %+v", one, two)
	}
	if j := m.Snapshot().Judgement; j != (Judgement{SystemIdentifier: two.SystemIdentifier, Primary: "db2", Timeline: 2}) {
		t.Errorf("judgement is %+v", j)
	}

	do(t, db2.KillAll())
	awaitServer(t, m, "db2", policy.Unknown, Down)
	if st := awaitServer(t, m, "db1", policy.Unknown, Quarantined); st.Detail != "claims to be primary on timeline 1, which the cluster has left for 2" {
		t.Errorf("state is %+v", st)
	}
}

// The next question would come in an hour: it is the pending read that sees the crash, and that is enough.
func TestRealCrash(t *testing.T) {
	noLeaks(t)
	cluster := startCluster(t, pgcluster.Config{})
	db1 := cluster.Server("db1")
	m, _ := monitor(t, MonitorConfig{Targets: []Target{over(db1, TLSOff)}, Interval: time.Hour, FreshLogin: time.Hour})
	awaitServer(t, m, "db1", policy.Primary, Up)
	do(t, db1.Kill())
	if st := awaitServer(t, m, "db1", policy.Unknown, Down); st.Detail != "connection refused" {
		t.Errorf("state is %+v", st)
	}
	do(t, db1.Start(within(t)))
	m.Suspect("db1")
	awaitServer(t, m, "db1", policy.Primary, Up)
}

// Frozen servers are silent; one of which only the postmaster is frozen goes on with the sessions it has.
func TestRealFreeze(t *testing.T) {
	noLeaks(t)
	cluster := startCluster(t, pgcluster.Config{Standbys: 1})
	db1, db2 := cluster.Server("db1"), cluster.Server("db2")
	m, _ := monitor(t, MonitorConfig{Targets: []Target{over(db1, TLSOff), over(db2, TLSOff)}, FreshLogin: time.Second, Timeout: 500 * time.Millisecond})
	awaitServer(t, m, "db1", policy.Primary, Up)
	awaitServer(t, m, "db2", policy.Replica, Up)

	do(t, db2.Freeze())
	awaitServer(t, m, "db2", policy.Unknown, Silent)
	do(t, db2.Thaw())
	awaitServer(t, m, "db2", policy.Replica, Up)

	do(t, db1.FreezePostmaster())
	if st := awaitServer(t, m, "db1", policy.Unknown, NoLogin); st.Claim != policy.Primary {
		t.Errorf("state is %+v", st)
	}
	do(t, db1.ThawPostmaster())
	awaitServer(t, m, "db1", policy.Primary, Up)
}

// A server that waits for its sessions to end does not wait for the monitor's.
func TestRealSmartShutdown(t *testing.T) {
	noLeaks(t)
	cluster := startCluster(t, pgcluster.Config{})
	db1 := cluster.Server("db1")
	m, _ := monitor(t, MonitorConfig{Targets: []Target{over(db1, TLSOff)}, FreshLogin: time.Second})
	awaitServer(t, m, "db1", policy.Primary, Up)
	do(t, db1.Stop(within(t), pgcluster.Smart))
	awaitServer(t, m, "db1", policy.Unknown, Down)
}

// The monitor logs in the way that clients do: over TLS alone where the server has it so, by SCRAM with channel
// binding, or over the unix socket.
func TestRealTLSAndPassword(t *testing.T) {
	noLeaks(t)
	authority := newAuthority(t)
	leaf := authority.issue(t, "127.0.0.1")
	cluster := startCluster(t, pgcluster.Config{
		TLS: func(string) ([]byte, []byte) { return inPEM(t, leaf) },
		HBA: []string{"hostnossl all all all reject"},
	})
	db1 := cluster.Server("db1")
	verified := over(db1, TLSVerifyFull)
	verified.RootCAs = authority.pool()
	untrusted := over(db1, TLSVerifyFull)
	untrusted.RootCAs = newAuthority(t).pool()
	unix := over(db1, TLSOff)
	unix.Network, unix.Address = "unix", filepath.Join(db1.SocketDir, ".s.PGSQL."+strconv.Itoa(db1.Port))
	wrong := testCredentials
	wrong.Password = "wrong"
	absent := testCredentials
	absent.Database = "absent"
	for name, c := range map[string]struct {
		target      Target
		credentials Credentials
		role        policy.Role
		status      Status
		detail      string
	}{
		"verify-full":    {verified, testCredentials, policy.Primary, Up, ""},
		"require":        {over(db1, TLSRequire), testCredentials, policy.Primary, Up, ""},
		"unix socket":    {unix, testCredentials, policy.Primary, Up, ""},
		"plain":          {over(db1, TLSOff), testCredentials, policy.Unknown, Misconfigured, "refuses the monitor's login (28000)"},
		"untrusted":      {untrusted, testCredentials, policy.Unknown, Misconfigured, "its certificate is not trusted"},
		"wrong password": {verified, wrong, policy.Unknown, Misconfigured, "refuses the monitor's login (28P01)"},
		"no database":    {verified, absent, policy.Unknown, Misconfigured, "lacks the monitor's database (3D000)"},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := monitor(t, MonitorConfig{Targets: []Target{c.target}, Credentials: c.credentials})
			st := awaitServer(t, m, "db1", c.role, c.status)
			if st.Detail != c.detail {
				t.Errorf("detail is %q, want %q", st.Detail, c.detail)
			}
			if hasLeaf := st.LeafHash != [32]byte{}; hasLeaf != (c.status == Up && c.target.Network == "tcp") {
				t.Errorf("leaf hash is %x", st.LeafHash)
			}
		})
	}
}

// The pending read must go on after it was interrupted by a question, on a TLS connection too: a crash is seen between
// questions that come often.
func TestRealCrashOverTLS(t *testing.T) {
	noLeaks(t)
	authority := newAuthority(t)
	leaf := authority.issue(t, "127.0.0.1")
	cluster := startCluster(t, pgcluster.Config{TLS: func(string) ([]byte, []byte) { return inPEM(t, leaf) }})
	db1 := cluster.Server("db1")
	m, log := monitor(t, MonitorConfig{Targets: []Target{over(db1, TLSRequire)}, Interval: 20 * time.Millisecond, FreshLogin: time.Hour})
	awaitServer(t, m, "db1", policy.Primary, Up)
	const sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgreplicaproxy' AND backend_start < now() - interval '1 s'"
	for got := ""; got != "1"; { // more than 30 questions and interruptions later, it is the same session
		var err error
		got, err = db1.QueryString(within(t), "postgres", sessions)
		do(t, err)
	}
	log.await(t, "db1", 1)
	do(t, db1.Kill())
	awaitServer(t, m, "db1", policy.Unknown, Down)
}

// While the servers have different system identifiers none is served; once there is one, the odd one out never is.
func TestRealForeignServer(t *testing.T) {
	noLeaks(t)
	ours, theirs := startCluster(t, pgcluster.Config{Standbys: 1}), startCluster(t, pgcluster.Config{})
	db1, db2, stranger := over(ours.Server("db1"), TLSOff), over(ours.Server("db2"), TLSOff), over(theirs.Server("db1"), TLSOff)
	stranger.Name = "db3"

	m, _ := monitor(t, MonitorConfig{Targets: []Target{stranger, db1, db2}})
	for _, name := range []string{"db1", "db2", "db3"} {
		awaitServer(t, m, name, policy.Unknown, Foreign)
	}
	if err := m.Accept("db2"); err == nil || err.Error() != `backend "db2" does not claim to be the primary: it is replica, foreign` {
		t.Error(err)
	}
	do(t, m.Accept("db1"))
	awaitServer(t, m, "db1", policy.Primary, Up)
	awaitServer(t, m, "db2", policy.Replica, Up)
	awaitServer(t, m, "db3", policy.Unknown, Foreign)

	do(t, ours.Server("db1").KillAll())
	do(t, ours.Server("db2").KillAll())
	awaitServer(t, m, "db2", policy.Unknown, Down)
	if st, _ := m.Snapshot().State("db3"); st.Role != policy.Unknown {
		t.Errorf("the stranger is served once it is alone: %+v", st)
	}
}
