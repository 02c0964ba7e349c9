package proxy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/policy"
)

func replicas(names ...string) []policy.Backend {
	var list []policy.Backend
	for _, name := range names {
		list = append(list, policy.Backend{Name: name, Role: policy.Replica, Weight: 1})
	}
	return list
}

// A replica that comes back, or comes new, gets to its share in the time given; those that were there from the start have it.
func TestCold(t *testing.T) {
	var s standings
	start := time.Now()
	cold := func(after time.Duration, known []policy.Backend) map[string]float64 {
		got := make(map[string]float64)
		for _, b := range s.fill(known, 30*time.Second, start.Add(after)) {
			got[b.Name] = b.Cold
		}
		return got
	}
	want := func(after time.Duration, known []policy.Backend, want ...float64) {
		t.Helper()
		got := cold(after, known)
		for i, b := range known {
			if got[b.Name] != want[i] {
				t.Errorf("after %v: %s is cold by %v, want %v", after, b.Name, got[b.Name], want[i])
			}
		}
	}
	want(0, []policy.Backend{{Name: "a"}, {Name: "b"}}, 0, 0) // nobody was asked yet
	both := replicas("a", "b")
	want(0, both, 0, 0)
	gone := replicas("a", "b")
	gone[1].Role = policy.Unknown
	want(time.Second, gone, 0, 0)
	want(10*time.Second, both, 0, 1)
	want(25*time.Second, both, 0, 0.5)
	want(40*time.Second, both, 0, 0)
	want(99*time.Second, both, 0, 0)
	lagging := replicas("a", "b")
	lagging[0].Lagging = true
	want(100*time.Second, lagging, 0, 0)
	want(110*time.Second, replicas("a", "b", "c"), 1, 0, 1)
	promoted := replicas("a", "b", "c")
	promoted[0].Role = policy.Primary
	want(111*time.Second, promoted, 0, 0, 1-1.0/30)
}

// New sessions, ten a second, come to a replica that is back with none in the measure that it has warmed up, beside one that
// keeps its hundred.
func TestSlowStart(t *testing.T) {
	in(t, Placement{SlowStart: 30 * time.Second}, func(t *testing.T, s *stage) {
		both := replicas("old", "back")
		s.become(both[0])
		arrive := func() *waiter {
			w := s.arrive("app_replica")
			<-w.done
			if w.err != nil {
				t.Fatal(w.err)
			}
			return w
		}
		var all []*waiter
		for range 100 {
			all = append(all, arrive())
		}
		s.become(both...)
		for tick := range 300 {
			all = append(all, arrive())
			old, back := s.cluster.standings.of("old").sessions, s.cluster.standings.of("back").sessions
			share := max(float64(tick)/300, 0.01) // of its weight that counts
			if most := float64(old+1)*share + 1; float64(back) > most {
				t.Fatalf("after %d of 300 ticks it has %d sessions beside %d, want %.0f at most", tick, back, old, most)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if back := s.cluster.standings.of("back").sessions; back < 190 || back > 200 {
			t.Errorf("when it is warm it has %d of 400 sessions, want nearly half", back)
		}
		for _, w := range all {
			w.end()
		}
	})
}

// Three failures in a row eject a replica, each time for longer while it does not get well.
func TestEject(t *testing.T) {
	var s standings
	known, now := replicas("a", "b", "c"), time.Now()
	fail := func(name string, times int) (d time.Duration) {
		for range times {
			d = s.failed(name, known, now)
		}
		return d
	}
	ejected := func(name string) bool { return s.fill(known, 0, now)[name[0]-'a'].Ejected }
	if d := fail("a", 2); d != 0 || ejected("a") {
		t.Errorf("two failures eject it for %v", d)
	}
	s.succeeded("a")
	if d := fail("a", 2); d != 0 {
		t.Errorf("failures that are not in a row eject it for %v", d)
	}
	s.succeeded("a")
	for n := range 40 {
		want := min(time.Duration(n+1)*10*time.Second, 5*time.Minute)
		if d := fail("a", 3); d != want {
			t.Fatalf("ejection %d is for %v, want %v", n+1, d, want)
		}
		if !ejected("a") || fail("a", 5) != 0 {
			t.Fatalf("ejection %d is none, or not the only one", n+1)
		}
		s.succeeded("a") // by one that had no other choice
		now = now.Add(want)
		if ejected("a") {
			t.Fatalf("ejection %d does not end", n+1)
		}
	}
	now = now.Add(5*time.Minute + time.Second)
	if d := fail("a", 3); d != 10*time.Second {
		t.Errorf("after a long time of health it is ejected for %v", d)
	}
}

// No more than half of the replicas are ejected, whatever they do, and never a primary.
func TestEjectIsBounded(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	for n := 1; n <= len(names); n++ {
		var s standings
		known, now := replicas(names[:n]...), time.Now()
		known = append(known, policy.Backend{Name: "p", Role: policy.Primary, Weight: 1})
		for range 10 {
			for _, b := range known {
				s.failed(b.Name, known, now)
			}
		}
		out := 0
		for _, b := range s.fill(known, 0, now) {
			if b.Ejected {
				out++
			}
			if b.Ejected && b.Role == policy.Primary {
				t.Error("the primary is ejected")
			}
		}
		if out != n/2 {
			t.Errorf("of %d replicas %d are ejected, want %d", n, out, n/2)
		}
	}
}

// A server gets so many dials at a time, and the next one when one of them is done.
func TestDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s standings
		var work sync.WaitGroup
		var under, most atomic.Int32
		for range 50 {
			work.Go(func() {
				done, err := s.dial(t.Context(), "a", 4)
				if err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), under.Add(1)))
				time.Sleep(time.Second)
				under.Add(-1)
				done()
			})
		}
		work.Wait()
		if got := most.Load(); got != 4 {
			t.Errorf("%d dials at a time, want 4", got)
		}
		for range 4 {
			if _, err := s.dial(t.Context(), "a", 4); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		if _, err := s.dial(ctx, "a", 4); err == nil || err.Error() != "enough" {
			t.Errorf("the fifth dial: %v", err)
		}
	})
}

// Servers that are named no more are forgotten, once nobody is on them.
func TestStandingsForget(t *testing.T) {
	var s standings
	s.watch(replicas("a", "b"))
	s.of("b").sessions = 1
	s.watch(replicas("a"))
	if len(s.byName) != 2 {
		t.Error("a server with a session on it was forgotten")
	}
	s.leave("b")
	s.watch(replicas("a"))
	if len(s.byName) != 1 {
		t.Error("a server that is no more is remembered")
	}
}

// Three hundred sessions that come at the same time are spread over two standbys, one for one, and leave nothing behind.
func TestBalance(t *testing.T) {
	r := serve(t, sharedCluster(t), func(c *Config) {
		c.Clusters[0].Placement = Placement{MaxDials: 32, MaxWaiting: 1000, HoldReplica: 10 * time.Second}
	})
	const sessions = 300
	conns := make(chan *pgconn.PgConn, sessions)
	var work sync.WaitGroup
	for range sessions {
		work.Go(func() {
			conn, err := r.tryConnect("app_replica", "")
			if err != nil {
				t.Error(err)
				return
			}
			conns <- conn
		})
	}
	work.Wait()
	close(conns)
	count := make(map[string]int)
	for _, info := range r.List() {
		count[info.Backend]++
	}
	if count["db2"] < 135 || count["db3"] < 135 || len(count) != 2 {
		t.Errorf("sessions are spread %v", count)
	}
	for conn := range conns {
		hangUp(conn)
	}
	eventually(t, "no session is left", func() bool { return r.Sessions() == 0 })
	standings := &r.settings.Load().clusters["main"].standings
	for _, name := range []string{"db1", "db2", "db3"} {
		if st := standings.of(name); st.sessions != 0 || len(st.dials) != 0 {
			t.Errorf("%s still has %d sessions, %d of them on their way", name, st.sessions, len(st.dials))
		}
	}
	if n := r.Waiting("main"); n != 0 {
		t.Errorf("%d sessions still wait", n)
	}
}
