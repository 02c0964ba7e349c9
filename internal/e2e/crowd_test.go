//go:build chaos

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/wire"
)

// The faults of crowds. Sessions are without TLS and with servers that are played, where thousands of real ones would only measure
// the machine; the monitor's sessions are real.

// crowdSize is want, or as many sessions as the descriptors of a process are enough for, when each takes so many; a fifth with the
// race detector, which allows no more than 8,128 goroutines.
func crowdSize(t *testing.T, want, descriptors int) int {
	t.Helper()
	const others = 1000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := min(want, (int(limit.Max)-others)/descriptors)
	if raceFlag != nil {
		n = min(n, want/5)
	}
	t.Logf("%d of %d sessions; a process may have %d descriptors, race detector %v", n, want, limit.Max, raceFlag != nil)
	return n
}

// crowdServer is a real server for the monitor, and lets every client in.
type crowdServer struct {
	*fakeServer
	now atomic.Int64 // sessions at present
}

func startCrowdServer(t *testing.T, real *pgcluster.Server) *crowdServer {
	t.Helper()
	s := new(crowdServer)
	s.fakeServer = startFake(t, real, s.playCrowd)
	return s
}

// playCrowd answers queries until the client ends. BEGIN begins a transaction.
func (s *crowdServer) playCrowd(f *fakeSession) {
	_ = f.SetDeadline(time.Time{})
	s.now.Add(1)
	defer s.now.Add(-1)
	f.say(authOK, keyData, readyForQuery)
	for {
		switch m := f.next(); {
		case m.Type != 'Q':
			return
		case strings.HasPrefix(string(m.Body), "BEGIN"):
			f.say(message('C', "BEGIN\x00"), message('Z', "T"))
		default:
			f.say(message('C', "SELECT 0\x00"), readyForQuery)
		}
	}
}

// crowdRig is a program in front of a primary and standbys that are crowdServers.
type crowdRig struct {
	*faultRig
	servers []*crowdServer
	dialed  atomic.Uint32
}

// crowdHCL is what a program for crowds has beside its cluster.
const crowdHCL = `limits {
  connections       = 20000
  logins            = 20000
  logins_per_prefix = 20000
  throttle {
    failures = 0
  }
}
login_timeout = "60s"
`

func startCrowd(t *testing.T, lines ...string) *crowdRig {
	t.Helper()
	r := &crowdRig{faultRig: startServers(t, faultSetup{async: true})}
	var all []backend
	for _, real := range r.c.Servers() {
		s := startCrowdServer(t, real)
		r.servers = append(r.servers, s)
		all = append(all, backend{real.Name, s.address, 0})
	}
	r.serve(backendsHCL(append(lines, trustHCL...), all...))
	return r
}

// serve starts the program, at an address that it has again after a restart.
func (r *crowdRig) serve(hcl string) {
	r.t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", lowPort(r.t))
	r.p = serve(r.t, fmt.Sprintf("listen {\n  address = %q\n  tls = \"optional\"\n}\n", address)+adminHCL+crowdHCL+hcl)
	r.p.addr = address
	r.before = r.p.holdings()
}

// dial connects from one of many addresses of loopback, so that ports and places last.
func (r *crowdRig) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n := r.dialed.Add(1)
	local := &net.TCPAddr{IP: net.IPv4(127, 1, byte(n%250), byte(1+n/250%250))}
	return (&net.Dialer{LocalAddr: local}).DialContext(ctx, network, address)
}

// login opens one session.
func (r *crowdRig) login(database string) (net.Conn, error) {
	conn, err := r.dial(context.Background(), "tcp", r.p.addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err = io.WriteString(conn, asApp(database)); err == nil {
		err = untilReady(conn)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// untilReady reads up to ReadyForQuery.
func untilReady(conn net.Conn) error {
	for reader := wire.NewReader(conn); ; {
		switch m, err := reader.Next(1 << 16); {
		case err != nil:
			return err
		case m.Type == 'E':
			return fmt.Errorf("told %q", m.Body)
		case m.Type == 'Z':
			return nil
		}
	}
}

// ask sends one query and waits for its answer.
func (r *crowdRig) ask(conn net.Conn, sql string) {
	r.t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err := io.WriteString(conn, message('Q', sql+"\x00"))
	if err == nil {
		err = untilReady(conn)
	}
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// connect opens n sessions, 64 at a time.
func (r *crowdRig) connect(database string, n int) []net.Conn {
	r.t.Helper()
	conns := make([]net.Conn, n)
	var next atomic.Int64
	var work sync.WaitGroup
	for range 64 {
		work.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				conn, err := r.login(database)
				if err != nil {
					r.t.Errorf("login %d: %v", i, err)
					return
				}
				conns[i] = conn
			}
		})
	}
	work.Wait()
	if r.t.Failed() {
		r.t.FailNow()
	}
	return conns
}

// ends waits for the end of sessions and returns how many were told why, by this SQLSTATE.
func (r *crowdRig) ends(conns []net.Conn, code string) (told int) {
	r.t.Helper()
	for _, conn := range conns {
		_ = conn.SetDeadline(time.Now().Add(patience))
		last, err := io.ReadAll(conn)
		if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
			r.t.Fatal("a session does not end")
		}
		if strings.Contains(string(last), code) {
			told++
		}
		_ = conn.Close()
	}
	return told
}

// The program ends, in order and by SIGKILL, with as many sessions as it can have. All of them end, with a word if it has the time
// for one; all come back, and the standbys share them.
func TestCrowd28ProxyEnds(t *testing.T) {
	r := startCrowd(t)
	n := crowdSize(t, 10_000, 2)
	conns := r.connect("app_replica", n)
	r.wantShared(n)
	r.restart(syscall.SIGTERM)
	if told := r.ends(conns, "57P01"); told != n {
		t.Errorf("%d of %d sessions were told that the program ends", told, n)
	}
	conns = r.connect("app_replica", n)
	r.wantShared(n)
	r.restart(syscall.SIGKILL)
	r.ends(conns, "57P01")
	conns = r.connect("app_replica", n)
	r.wantShared(n)
	for _, conn := range conns {
		_ = conn.Close()
	}
	r.p.waitHoldings(r.before)
}

// wantShared waits until the standbys have n sessions, and the primary none, and expects each to have half of them, give or take a
// fifth.
func (r *crowdRig) wantShared(n int) {
	r.t.Helper()
	one, other := &r.servers[1].now, &r.servers[2].now
	r.until("the standbys have all sessions", func() bool { return one.Load()+other.Load() == int64(n) })
	r.t.Logf("of %d sessions db2 has %d, db3 %d", n, one.Load(), other.Load())
	if half := int64(n / 2); one.Load() < half-half/5 || one.Load() > half+half/5 || r.servers[0].now.Load() != 0 {
		r.t.Errorf("of %d sessions db1 has %d, db2 %d, db3 %d", n, r.servers[0].now.Load(), one.Load(), other.Load())
	}
}

// until waits for a condition that nothing signals.
func (r *crowdRig) until(what string, done func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited %v in vain until %s", patience, what)
		}
	}
}

// Ten thousand clients come at once while there is no primary. max_waiting of them wait, the rest are told at once. When the
// primary, a real one, is back, those who waited are served, all of them, max_dials at a time.
func TestCrowd29Burst(t *testing.T) {
	const waiting, dials = 1000, 32 // the defaults
	r := &crowdRig{faultRig: startServers(t, faultSetup{standbys: 1, async: true, settings: map[string]string{"max_connections": "1100"}})}
	way := startLine(t, r.db1)
	r.serve(backendsHCL([]string{"hold_primary = \"5m\""}, backend{"db1", way.address, 0}, backend{"db2", serverAddress(r.db2), 0}))
	n := crowdSize(t, 10_000, 1)
	config, err := pgconn.ParseConfig(r.p.dsn("app", "sslmode=disable"))
	r.must(err)
	config.DialFunc = r.dial
	ctx, seen := testContext(t), r.p.logged()
	r.must(r.db1.KillAll())
	r.p.waitChange(seen, "db1", "unknown", "down")
	burst := connectAll(ctx, config, n)
	r.until("all but those who wait are turned away", func() bool {
		open, refused := burst.count()
		return open == 0 && refused == n-waiting
	})
	t.Logf("turned away: %v", burst.refused)
	for code := range burst.refused {
		if code != "53300" && code != "57P03" {
			t.Errorf("clients were told %q", code)
		}
	}
	r.must(r.db1.Start(ctx))
	burst.work.Wait()
	if open, _ := burst.count(); open != waiting {
		t.Errorf("%d of %d that waited were served: %v", open, waiting, burst.refused)
	}
	const monitors = 2 // the monitor's own login, and an audit's
	if most := way.mostMute(); most > dials+monitors {
		t.Errorf("%d connections at a time have waited for the primary's first word, want %d at most", most, dials+monitors)
	} else {
		t.Logf("at most %d connections at a time have waited for the primary's first word", most)
	}
	burst.close()
	r.p.waitHoldings(r.before)
}

// A standby comes back while the other one has 3,000 sessions. In its slow start it has no more of them than its part of the time;
// then sessions are moved to it, one in a hundred a second at most, and none out of its transaction.
func TestCrowd30ReplicaReturns(t *testing.T) {
	const slowStart = 10 * time.Second
	r := startCrowd(t, "rebalance = true", "slow_start = \""+slowStart.String()+"\"")
	full, empty := &r.servers[1].now, &r.servers[2].now
	seen := r.p.logged()
	r.must(r.db3.KillAll())
	r.p.waitChange(seen, "db3", "unknown", "down")
	conns := r.connect("app_replica", 3000)
	const transactions = 300 // of the oldest, which would be moved first
	for _, conn := range conns[:transactions] {
		r.ask(conn, "BEGIN")
	}
	seen = r.p.logged()
	r.must(r.db3.Start(testContext(t)))
	back, err := time.Parse(time.RFC3339Nano, fmt.Sprint(r.p.waitChange(seen, "db3", "replica", "up")["time"]))
	r.must(err)
	for range 1000 {
		conn, err := r.login("app_replica")
		r.must(err)
		conns = append(conns, conn)
		has := empty.Load()
		part := 0.01 + float64(time.Since(back))/float64(slowStart) // the log's time is not quite that of the beginning
		if most := part * float64(full.Load()); float64(has) > most {
			t.Fatalf("%v after it was back, db3 has %d sessions of %d, want %.0f at most", time.Since(back), has, full.Load(), most)
		}
	}
	t.Logf("%v after it was back, db3 has %d sessions, db2 %d", time.Since(back).Round(time.Millisecond), empty.Load(), full.Load())

	// From then on: what ends, the program has moved.
	const moves = 200
	var moved []time.Time
	r.until("sessions are moved", func() bool {
		moved = r.p.endedAt(seen)
		return len(moved) >= moves
	})
	if took, most := moved[len(moved)-1].Sub(moved[0]), len(conns)/100; len(moved) > most*(int(took.Seconds())+2) {
		t.Errorf("%d sessions of %d were moved in %v", len(moved), len(conns), took)
	} else {
		t.Logf("%d sessions of %d were moved in %v", len(moved), len(conns), took.Round(time.Millisecond))
	}
	for _, conn := range conns[:transactions] {
		r.ask(conn, "SELECT 1")
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	r.p.waitHoldings(r.before)
}

// endedAt returns when the program has ended sessions, behind so many lines of its log.
func (p *program) endedAt(seen int) (times []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, entry := range p.logs[seen:] {
		if entry["msg"] == "session closed" && entry["cause"] == "ended" {
			at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(entry["time"]))
			if err != nil {
				p.t.Fatal(err)
			}
			times = append(times, at)
		}
	}
	return times
}

// mostMute is how many connections at a time, at most, have waited for the server's first word.
func (l *line) mostMute() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mutes
}
