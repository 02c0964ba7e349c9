package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// faultRig is what most of the tests of faults stand on: a primary, db1, and standbys, the program in front of them, a load,
// and a witness that watches all the time.
type faultRig struct {
	t             *testing.T
	c             *pgcluster.Cluster
	db1, db2, db3 *pgcluster.Server // db3 may be nil
	p             *program
	load          *load
	before        holdings // of the program, without clients
	witness       func()   // stops the witness
}

// faultSetup is what a test wants otherwise than usual. The zero value is two standbys with synchronous replication and the
// load of loadMix.
type faultSetup struct {
	standbys int // 0 for two
	async    bool
	settings map[string]string           // of the servers
	cluster  string                      // the cluster's block; empty for one with the servers, and
	lines    []string                    // these lines in it
	hcl      string                      // beside the cluster's block
	through  map[string]string           // the address of a server, by its name, where it is not its own
	ways     map[*pgcluster.Server]*line // which are these, where they are lines
	mix      map[clientKind]int
	prepare  func(*pgcluster.Cluster) // the servers, before the program starts; nil for nothing
	interval string                   // of the monitor's questions; the harness's if empty
	// everywhere makes the program listen on every address.
	everywhere bool
}

// adminHCL is an admin listener with what tells the number of goroutines.
const adminHCL = "admin {\n  address = \"127.0.0.1:0\"\n  pprof = true\n}\n"

// startFault starts all of it, and returns once the load is at work.
func startFault(t *testing.T, setup faultSetup) *faultRig {
	t.Helper()
	r := startServers(t, setup)
	if setup.prepare != nil {
		setup.prepare(r.c)
	}
	r.serve(setup)
	mix := setup.mix
	if mix == nil {
		mix = loadMix
	}
	r.load = startMix(t, r.p, r.db1, mix)
	return r
}

// startServers is startFault without the program and the load.
func startServers(t *testing.T, setup faultSetup) *faultRig {
	t.Helper()
	standbys := setup.standbys
	if standbys == 0 {
		standbys = 2
	}
	settings := map[string]string{"max_connections": "300"}
	for name, value := range setup.settings {
		settings[name] = value
	}
	r := &faultRig{t: t, c: startCluster(t, pgcluster.Config{Standbys: standbys, Settings: settings})}
	r.db1, r.db2, r.db3 = r.c.Server("db1"), r.c.Server("db2"), r.c.Server("db3")
	if !setup.async {
		for _, s := range r.c.Servers() {
			r.synchronous(s)
		}
	}
	return r
}

// serve starts the program and the witness.
func (r *faultRig) serve(setup faultSetup) {
	r.t.Helper()
	hcl := setup.cluster
	if hcl == "" {
		hcl = clusterHCL(r.c, setup.lines...)
	}
	if setup.interval != "" {
		hcl = strings.Replace(hcl, "interval = \"200ms\"", "interval = \""+setup.interval+"\"", 1)
	}
	for name, address := range setup.through {
		hcl = strings.Replace(hcl, serverAddress(r.c.Server(name)), address, 1)
	}
	address := fmt.Sprintf("127.0.0.1:%d", lowPort(r.t))
	listen := address
	if setup.everywhere {
		listen = strings.TrimPrefix(address, "127.0.0.1")
	}
	admin := strings.Replace(adminHCL, "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", lowPort(r.t)), 1) // for commands
	r.p = serve(r.t, fmt.Sprintf("listen {\n  address = %q\n}\n", listen)+admin+hcl+setup.hcl)
	r.p.addr = address
	r.before = r.p.holdings()
	r.witness = startWitness(r.t, r.c, setup.ways)
}

// lowPort is a free port below those that the kernel gives to clients: one of theirs could otherwise have the program's port
// while it is down.
func lowPort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(10000)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// restart ends the program with a signal and starts it again, with the state that it left and at the same address.
func (r *faultRig) restart(sig os.Signal) {
	r.t.Helper()
	old := r.p
	r.must(old.cmd.Process.Signal(sig))
	select {
	case <-old.done:
	case <-time.After(patience):
		r.t.Fatal("the program does not end")
	}
	if sig == os.Kill {
		old.err = nil // as it was meant to be
	}
	p := &program{t: r.t, dir: old.dir, done: make(chan struct{}), more: make(chan struct{})}
	p.start(nil, binary, "serve")
	p.waitLog("listening", nil)
	p.addr = old.addr
	r.p = p
	if r.load != nil {
		r.load.p = p
	}
}

// reconfigure changes a text in the configuration and has it reloaded.
func (r *faultRig) reconfigure(from, to string) {
	r.t.Helper()
	hcl, err := os.ReadFile(filepath.Join(r.p.dir, "pgreplicaproxy.hcl"))
	r.must(err)
	changed := strings.Replace(string(hcl), from, to, 1)
	if changed == string(hcl) {
		r.t.Fatalf("the configuration does not hold %q", from)
	}
	seen := r.p.logged()
	r.p.write("pgreplicaproxy.hcl", changed)
	r.p.signal(syscall.SIGHUP)
	r.p.waitLogSince(seen, "configuration reloaded", nil)
}

// isTrue asks a server.
func (r *faultRig) isTrue(s *pgcluster.Server, sql string) bool {
	r.t.Helper()
	answer, err := s.QueryString(testContext(r.t), "postgres", sql)
	r.must(err)
	return answer == "t"
}

// synchronous makes a server acknowledge no commit that one of the others does not have: what its sessions were told is
// then safe whatever happens to it.
func (r *faultRig) synchronous(s *pgcluster.Server) {
	r.t.Helper()
	r.configure(s, "synchronous_standby_names", "ANY 1 (db1, db2, db3)")
}

// configure sets a parameter of a server that needs no restart.
func (r *faultRig) configure(s *pgcluster.Server, name, value string) {
	r.t.Helper()
	if err := s.Exec(testContext(r.t), "postgres", "ALTER SYSTEM SET "+name+" = '"+value+"'"); err != nil {
		r.t.Fatal(err)
	}
	r.must(s.Reload())
	waitTrue(r.t, s, "SELECT current_setting('"+name+"') = '"+value+"'")
}

// must ends the test if something that is no part of it went wrong.
func (r *faultRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v\nlog of the program:\n%s", err, r.p.log())
	}
}

// promoteBest promotes the one of two standbys that has received more, as a cluster manager would, makes the other follow it,
// and returns them in this order.
func (r *faultRig) promoteBest(a, b *pgcluster.Server) (promoted, follows *pgcluster.Server) {
	r.t.Helper()
	ctx := testContext(r.t)
	const received = "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn"
	lsn := func(s *pgcluster.Server) int {
		text, err := s.QueryString(ctx, "postgres", received)
		r.must(err)
		n, _ := strconv.Atoi(text)
		return n
	}
	promoted, follows = a, b
	if lsn(b) > lsn(a) {
		promoted, follows = b, a
	}
	r.must(promoted.Promote(ctx))
	r.must(follows.Follow(ctx, promoted))
	return promoted, follows
}

// fenced waits until the program has ended every session that was on a server at the time since, which must not take longer
// than ten times the goal: the factor is for machines that are busy with other things.
func (r *faultRig) fenced(s *pgcluster.Server, since, goal time.Duration) {
	r.t.Helper()
	last, n := r.load.waitFenced(s, since, 10*goal)
	r.t.Logf("%s: %d sessions were closed, the last after %v (goal %v)", s.Name, n, (last - since).Round(100*time.Microsecond), goal)
	if n == 0 {
		r.t.Errorf("no session was on %s", s.Name)
	}
}

// finish checks the ledger by the primary of the end, and that nothing is left of the load in the program or on the servers
// that run.
func (r *faultRig) finish(primary *pgcluster.Server, mayLose ...*pgcluster.Server) {
	r.t.Helper()
	r.load.check(primary, mayLose...)
	r.p.waitHoldings(r.before)
	for _, s := range r.c.Servers() {
		if s.Alive() {
			r.wantNobody(s)
		}
	}
}

// wantNobody waits until no session of a client is left on a server.
func (r *faultRig) wantNobody(s *pgcluster.Server) {
	r.t.Helper()
	const left = "SELECT coalesce(string_agg(pid || ' ' || state || ' ' || query, ', '), '') FROM pg_stat_activity WHERE usename = '" + appUser + "'"
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		list, err := s.QueryString(testContext(r.t), "postgres", left)
		r.must(err)
		if list == "" {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("sessions are left on %s: %s", s.Name, list)
		}
	}
}

// holdings is what the program keeps.
type holdings struct{ goroutines, descriptors int }

// holdings counts what the program keeps now.
func (p *program) holdings() holdings {
	p.t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.process()))
	if err != nil {
		p.t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	response, err := client.Get(p.admin() + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var h holdings
	if _, err := fmt.Sscanf(string(body), "goroutine profile: total %d", &h.goroutines); err != nil {
		p.t.Fatalf("%v: %.200s", err, body)
	}
	h.descriptors = len(files)
	return h
}

// waitHoldings waits until the program keeps no more than it did before, with room for a login of the monitor to each server
// that is under way.
func (p *program) waitHoldings(before holdings) {
	p.t.Helper()
	const room = 4
	var now holdings
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		now = p.holdings()
		if now.goroutines <= before.goroutines+room && now.descriptors <= before.descriptors+room {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the program keeps %+v, before its clients it was %+v", now, before)
		}
	}
}

// long chooses between the measure of every day and that of chaos.
func long[T any](everyDay, inChaos T) T {
	if chaos {
		return inChaos
	}
	return everyDay
}
