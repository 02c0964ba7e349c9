package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// sequence is a random row of faults, the same for the same seed: which faults, in which order, with which pauses. (What the
// processes make of it is not the same every time.)
type sequence struct {
	*faultRig
	random  *rand.Rand
	lines   map[*pgcluster.Server]*line
	primary *pgcluster.Server // as the operator of the cluster sees it
	writers int
}

// sequenceMix is its load.
var sequenceMix = map[clientKind]int{writing: 10, idling: 4, inTransaction: 4, sleeping: 2, burning: 1, reading: 4}

// TestFaultSequence does what its seed says: `make chaos SEED=7 STEPS=300`. Servers replicate synchronously, so that nothing
// that was acknowledged may be lost, whatever happens to one of them.
func TestFaultSequence(t *testing.T) {
	seed, steps := number("PGREPLICAPROXY_SEED", 1), number("PGREPLICAPROXY_STEPS", long(10, 200))
	t.Logf("seed %d, %d steps", seed, steps)
	s := &sequence{
		faultRig: startServers(t, faultSetup{settings: noticeClients}), random: rand.New(rand.NewPCG(uint64(seed), 0)),
		lines: make(map[*pgcluster.Server]*line), writers: sequenceMix[writing],
	}
	through := make(map[string]string)
	for _, server := range s.c.Servers() {
		s.lines[server] = startLine(t, server)
		through[server.Name] = s.lines[server].address
	}
	s.primary = s.db1
	s.serve(faultSetup{through: through, ways: s.lines, lines: []string{"hold_primary = \"5s\"", "hold_replica = \"2s\""}})
	s.load = startMix(t, s.p, s.db1, sequenceMix)
	for step := range steps {
		s.step(step)
	}
	s.witness()
	s.finish(s.primary)
}

// number is a number in the environment, if it has one.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// step does one thing to the servers, and perhaps another one to what is around them, then mends all, and waits until the load
// is back.
func (s *sequence) step(number int) {
	s.t.Helper()
	around, server := arounds[s.random.IntN(len(arounds))], serverFaults[s.random.IntN(len(serverFaults))]
	if s.random.IntN(3) > 0 {
		around.name = ""
	}
	began := time.Now()
	if around.name != "" {
		around.do(s)
	}
	server.do(s)
	s.mend()
	s.t.Logf("step %d: %s %s; %s is the primary, after %v", number, server.name, around.name, s.primary.Name, time.Since(began).Round(10*time.Millisecond))
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// fault is something that a sequence can do. It returns once it is done, and leaves behind what mend can mend.
type fault struct {
	name string
	do   func(*sequence)
}

// serverFaults are what happens to servers.
var serverFaults = []fault{
	{"kill the primary, and start it again", func(s *sequence) {
		s.must(s.primary.KillAll())
		s.linger(time.Second)
		s.must(s.primary.Start(s.ctx()))
	}},
	{"kill the primary's postmaster, and promote", func(s *sequence) {
		s.must(s.primary.Kill())
		s.linger(time.Second)
		s.failOver()
	}},
	{"kill the primary, promote, and start it again", func(s *sequence) {
		s.must(s.primary.KillAll())
		old := s.primary
		s.failOver()
		s.must(old.Start(s.ctx()))
		s.linger(2 * time.Second)
	}},
	{"stop the primary fast", func(s *sequence) { s.stop(pgcluster.Fast) }},
	{"stop the primary immediately", func(s *sequence) { s.stop(pgcluster.Immediate) }},
	{"stop the primary smartly, and then fast", func(s *sequence) {
		soon, cancel := context.WithTimeout(s.ctx(), time.Second)
		defer cancel()
		_ = s.primary.Stop(soon, pgcluster.Smart)
		s.stop(pgcluster.Fast)
	}},
	{"switch over", func(s *sequence) {
		to := s.standby()
		s.switchover(s.primary, to)
		s.primary = to
	}},
	{"freeze the primary", func(s *sequence) {
		s.must(s.primary.Freeze())
		s.linger(6 * time.Second)
		s.must(s.primary.Thaw())
	}},
	{"freeze the primary, promote, and thaw it", func(s *sequence) {
		old := s.primary
		s.must(old.Freeze())
		s.failOver()
		s.linger(5 * time.Second)
		s.must(old.Thaw())
		s.linger(2 * time.Second)
	}},
	{"freeze the primary's postmaster", func(s *sequence) {
		s.must(s.primary.FreezePostmaster())
		s.linger(4 * time.Second)
		s.must(s.primary.ThawPostmaster())
	}},
	{"freeze a standby", func(s *sequence) {
		standby := s.standby()
		s.must(standby.Freeze())
		s.linger(5 * time.Second)
		s.must(standby.Thaw())
	}},
	{"kill a standby", func(s *sequence) { s.must(s.standby().KillAll()) }},
	{"promote a standby beside the primary", func(s *sequence) {
		s.must(s.standby().Promote(s.ctx()))
		s.linger(2 * time.Second)
	}},
	{"cut the primary off", func(s *sequence) { s.disturb(s.primary, lineFault{silent: true}, 6*time.Second) }},
	{"cut the primary off, and promote", func(s *sequence) {
		s.lines[s.primary].set(lineFault{silent: true})
		old := s.primary
		s.failOver()
		s.linger(5 * time.Second)
		s.lines[old].set(lineFault{})
		s.linger(2 * time.Second)
	}},
	{"cut a standby off", func(s *sequence) { s.disturb(s.standby(), lineFault{silent: true}, 5*time.Second) }},
	{"refuse connections to the primary", func(s *sequence) {
		s.lines[s.primary].reset()
		s.disturb(s.primary, lineFault{refuse: true}, 2*time.Second)
	}},
	{"lock pg_authid", func(s *sequence) {
		lock, err := s.primary.Conn(s.ctx(), "postgres")
		s.must(err)
		ask(s.t, lock, "BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE")
		s.linger(3 * time.Second)
		s.must(lock.Close(s.ctx()))
	}},
	{"kill a backend", func(s *sequence) {
		pid, err := s.primary.QueryString(s.ctx(), "postgres", "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE usename = '"+appUser+"'")
		s.must(err)
		if victim, _ := strconv.Atoi(pid); victim > 0 {
			s.must(syscall.Kill(victim, syscall.SIGKILL))
		}
	}},
	{"nothing", func(s *sequence) { s.linger(time.Second) }},
}

// arounds are what happens to the program and the network in the meantime.
var arounds = []fault{
	{"with a program that is stopped and started", func(s *sequence) { s.restart(syscall.SIGTERM) }},
	{"with a program that is killed and started", func(s *sequence) { s.restart(syscall.SIGKILL) }},
	{"with a reload", func(s *sequence) { s.must(s.p.cmd.Process.Signal(syscall.SIGHUP)) }},
	{"on slow lines", func(s *sequence) { s.everywhere(lineFault{delay: 10 * time.Millisecond}) }},
	{"on lines that tear frames", func(s *sequence) { s.everywhere(lineFault{piece: 7}) }},
	{"on lines that break", func(s *sequence) {
		for _, l := range s.lines {
			l.reset()
		}
	}},
}

// ctx bounds one thing that is done.
func (s *sequence) ctx() context.Context { return testContext(s.t) }

// linger waits for a random time up to longest.
func (s *sequence) linger(longest time.Duration) {
	time.Sleep(time.Duration(s.random.Int64N(int64(longest))))
}

// standby is one of the two.
func (s *sequence) standby() *pgcluster.Server {
	a, b := s.standbys()
	if s.random.IntN(2) == 0 {
		return a
	}
	return b
}

func (s *sequence) standbys() (a, b *pgcluster.Server) {
	var all []*pgcluster.Server
	for _, server := range s.c.Servers() {
		if server != s.primary {
			all = append(all, server)
		}
	}
	return all[0], all[1]
}

// failOver promotes the standby that has more.
func (s *sequence) failOver() { s.primary, _ = s.promoteBest(s.standbys()) }

// stop stops the primary and starts it again.
func (s *sequence) stop(mode pgcluster.ShutdownMode) {
	s.must(s.primary.Stop(s.ctx(), mode))
	s.linger(time.Second)
	s.must(s.primary.Start(s.ctx()))
}

// disturb makes a fault on the way to a server for a while.
func (s *sequence) disturb(server *pgcluster.Server, fault lineFault, longest time.Duration) {
	s.lines[server].set(fault)
	s.linger(longest)
	s.lines[server].set(lineFault{})
}

func (s *sequence) everywhere(fault lineFault) {
	for _, l := range s.lines {
		l.set(fault)
	}
}

// mend makes the cluster whole, as its operator would, and waits until the load is back.
func (s *sequence) mend() {
	s.t.Helper()
	s.everywhere(lineFault{})
	s.must(s.primary.Start(s.ctx()))
	a, b := s.standbys()
	for _, server := range []*pgcluster.Server{a, b} {
		if !s.follows(server) {
			s.must(server.Rebuild(s.ctx(), s.primary))
		}
	}
	s.load.waitWriters(s.primary, s.writers)
}

// follows tells whether a server is a standby that follows the primary. A receiver that has lost its primary is started again
// soon, so that it is given a moment.
func (s *sequence) follows(server *pgcluster.Server) bool {
	query := fmt.Sprintf(`SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'primary'
		WHEN EXISTS (SELECT FROM pg_stat_wal_receiver WHERE sender_port = %d) THEN 'follows' ELSE 'waits' END`, s.primary.Port)
	ctx, cancel := context.WithTimeout(s.ctx(), 3*time.Second)
	defer cancel()
	for server.Alive() && ctx.Err() == nil {
		answer, err := server.QueryString(ctx, "postgres", query)
		if err == nil && answer != "waits" {
			return answer == "follows"
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}
