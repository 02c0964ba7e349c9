package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// stage is a Server whose servers are what the test says, in the time of the test.
type stage struct {
	*Server
	t       *testing.T
	cluster *cluster
	servers atomic.Pointer[[]policy.Backend]
}

// newStage has the default routes and no server that could be used.
func newStage(t *testing.T, placement Placement) *stage {
	t.Helper()
	s := New(Config{
		Clusters: []ClusterConfig{{Monitor: backends.MonitorConfig{Cluster: "main"}, Placement: placement}},
		Routes:   policy.Rules{Routes: policy.DefaultRoutes("main")},
	})
	st := &stage{Server: s, t: t, cluster: s.settings.Load().clusters["main"]}
	st.cluster.known = func() *backends.Snapshot { return &backends.Snapshot{Backends: *st.servers.Load()} }
	st.become(policy.Backend{Name: "db1", Role: policy.Unknown, Weight: 1, Detail: "connection refused"})
	return st
}

// become says what the servers are from now on.
func (s *stage) become(servers ...policy.Backend) {
	s.servers.Store(&servers)
	s.cluster.standings.drain("nobody", false) // is news
}

var (
	aPrimary = policy.Backend{Name: "db1", Role: policy.Primary, Weight: 1}
	aReplica = policy.Backend{Name: "db2", Role: policy.Replica, Weight: 1, Replayed: 100}
)

// waiter is a session that wants to be placed.
type waiter struct {
	*session
	client net.Conn // the client's end
	err    error
	took   time.Duration
	done   chan struct{}
}

// arrive brings a client to be placed, in a goroutine of its own.
func (s *stage) arrive(database string, params ...wire.Param) *waiter {
	near, far := net.Pipe()
	w := &waiter{client: far, done: make(chan struct{})}
	w.session = newSession(s.Server, &tlsfront.Client{
		Conn: near, Address: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, Deadline: time.Now().Add(15 * time.Second),
		Opening: wire.Opening{Kind: wire.KindStartup, Startup: wire.Startup{
			Params: append([]wire.Param{{Name: "user", Value: "app"}, {Name: "database", Value: database}}, params...),
		}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.stop = cancel, func() bool { return true }
	s.add(w.session)
	_ = near.SetDeadline(w.session.client.Deadline)
	began := time.Now()
	go func() {
		defer close(w.done)
		defer cancel()
		w.err = w.place(ctx)
		w.took = time.Since(began)
	}()
	return w
}

// end waits for the end of the wait, and takes the client away.
func (w *waiter) end() {
	<-w.done
	_ = w.client.Close()
	w.leave()
}

// in runs a test in a time of its own, and wants nothing to be left of it.
func in(t *testing.T, placement Placement, test func(t *testing.T, s *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, placement)
		test(t, s)
		if n := s.cluster.waiting.size(); n != 0 || len(s.cluster.waiting.byAddress) != 0 {
			t.Errorf("%d sessions are still counted as waiting", n)
		}
		for name, st := range s.cluster.standings.byName {
			if st.sessions != 0 {
				t.Errorf("%s still counts %d sessions", name, st.sessions)
			}
		}
	})
}

var patient = Placement{HoldPrimary: 10 * time.Second, HoldReplica: 2 * time.Second, MaxWaiting: 1000, MaxDials: 32}

// A client without a server waits its time, and is then told what was looked for. The login's own time begins after that.
func TestHoldExpires(t *testing.T) {
	for database, want := range map[string]time.Duration{"app": 10 * time.Second, "app_replica": 2 * time.Second} {
		in(t, patient, func(t *testing.T, s *stage) {
			deadline := time.Now().Add(15 * time.Second)
			w := s.arrive(database)
			w.end()
			told := forClient(w.err)
			if w.took != want || told.Code != "57P03" || told.Detail != fmt.Sprintf("Waited %v.", want) ||
				!strings.Contains(told.Message, "can take the session now: db1 is unknown (connection refused)") {
				t.Errorf("after %v: %+v", w.took, told)
			}
			if got := w.session.client.Deadline.Sub(deadline); got != want {
				t.Errorf("the login has %v more, want %v", got, want)
			}
			if got := s.cluster.waiting.outcomes; len(got) != 1 || got[HoldExpired] != 1 {
				t.Errorf("outcomes are %v", got)
			}
		})
	}
}

// News of a server that will do ends the wait at that moment; other news does not.
func TestHoldEndsWithNews(t *testing.T) {
	in(t, patient, func(t *testing.T, s *stage) {
		w := s.arrive("app")
		time.Sleep(2 * time.Second)
		s.become(aReplica)
		time.Sleep(time.Second)
		s.become(aPrimary, aReplica)
		<-w.done
		if w.err != nil || w.took != 3*time.Second || !slices.Equal(w.decision.Backends, []string{"db1"}) {
			t.Errorf("after %v: %v, placed on %v", w.took, w.err, w.decision.Backends)
		}
		if got := s.cluster.standings.of("db1").sessions; got != 1 {
			t.Errorf("db1 counts %d sessions, want 1", got)
		}
		w.end()
	})
}

// A client that goes away gives its place up at once.
func TestHoldEndsWithClient(t *testing.T) {
	in(t, patient, func(t *testing.T, s *stage) {
		w := s.arrive("app")
		time.Sleep(time.Second)
		_ = w.client.Close()
		w.end()
		if !errors.Is(w.err, errClientGone) || w.took != time.Second {
			t.Errorf("after %v: %v", w.took, w.err)
		}
	})
}

// What a client says before it is asked is kept for the server that asks.
func TestHoldKeepsEarlyBytes(t *testing.T) {
	in(t, patient, func(t *testing.T, s *stage) {
		w := s.arrive("app")
		go func() { _, _ = w.client.Write(wire.Message{Type: 'p', Body: []byte("early")}.Append(nil)) }()
		time.Sleep(time.Second)
		s.become(aPrimary)
		<-w.done
		m, err := w.up.Next(100)
		if w.err != nil || err != nil || string(m.Body) != "early" || w.took != time.Second {
			t.Errorf("after %v: %v; read %q, %v", w.took, w.err, m.Body, err)
		}
		w.end()
	})
}

// The program ends a wait: of one session, and of all when it stops.
func TestHoldIsEnded(t *testing.T) {
	for name, early := range map[string]bool{"silent client": false, "client that has spoken": true} {
		t.Run(name, func(t *testing.T) {
			in(t, patient, func(t *testing.T, s *stage) {
				w := s.arrive("app")
				if early {
					go func() { _, _ = w.client.Write([]byte("p")) }()
				}
				time.Sleep(time.Second)
				w.session.end(relay.Ending{Error: errAdministrator})
				w.end()
				if w.err == nil || w.took != time.Second {
					t.Errorf("after %v: %v", w.took, w.err)
				}
			})
		})
	}
	t.Run("drain", func(t *testing.T) {
		in(t, patient, func(t *testing.T, s *stage) {
			w := s.arrive("app")
			time.Sleep(time.Second)
			s.leave()
			w.end()
			if told := forClient(w.err); told.Code != "57P03" || w.took != time.Second {
				t.Errorf("after %v: %+v", w.took, told)
			}
		})
	})
}

// Beyond the bound nobody waits, and one address leaves as many places as it takes.
func TestHoldIsBounded(t *testing.T) {
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, test := range []struct {
		most int
		want map[netip.Addr]int
	}{
		{1, map[netip.Addr]int{here: 1, there: 0}},
		{2, map[netip.Addr]int{here: 1, there: 1}},
		{1000, map[netip.Addr]int{here: 500, there: 250}},
	} {
		var w waitingRoom
		for _, address := range []netip.Addr{here, there} {
			got := 0
			for w.enter(address, test.most) {
				got++
			}
			if got != test.want[address] {
				t.Errorf("%v gets %d places of %d, want %d", address, got, test.most, test.want[address])
			}
		}
	}
	in(t, Placement{HoldPrimary: time.Second, MaxWaiting: 1}, func(t *testing.T, s *stage) {
		first := s.arrive("app")
		synctest.Wait()
		second := s.arrive("app")
		second.end()
		if told := forClient(second.err); told.Code != "53300" || second.took != 0 {
			t.Errorf("the second is told %+v after %v", told, second.took)
		}
		first.end()
		if first.took != time.Second || s.cluster.waiting.outcomes[HoldCrowded] != 1 {
			t.Errorf("the first waited %v, outcomes are %v", first.took, s.cluster.waiting.outcomes)
		}
	})
}

// Few are released at once, many one after the other within half a second.
func TestHoldIsStaggered(t *testing.T) {
	for _, test := range []struct {
		waiting     int
		least, most time.Duration
	}{
		{32, 0, 0},
		{132, 50 * time.Millisecond, 100 * time.Millisecond},
		{900, 400 * time.Millisecond, mostStagger},
	} {
		in(t, Placement{HoldPrimary: 10 * time.Second, MaxWaiting: 2000, MaxDials: 32}, func(t *testing.T, s *stage) {
			var waiting []*waiter
			for range test.waiting {
				waiting = append(waiting, s.arrive("app"))
			}
			time.Sleep(time.Second)
			s.become(aPrimary)
			var last time.Duration
			moments := make(map[time.Duration]int)
			for _, w := range waiting {
				w.end()
				if w.err != nil {
					t.Fatal(w.err)
				}
				last = max(last, w.took-time.Second)
				moments[w.took.Truncate(50*time.Millisecond)]++
			}
			if last < test.least || last > test.most {
				t.Errorf("of %d the last is released after %v, want %v to %v", test.waiting, last, test.least, test.most)
			}
			for at, n := range moments {
				if test.most > 0 && n > test.waiting*3/4 {
					t.Errorf("%d of %d are released at %v", n, test.waiting, at)
				}
			}
		})
	}
}

// A login whose servers have failed rests for a moment before each new try, in all no longer than it may be held.
func TestAgain(t *testing.T) {
	in(t, patient, func(t *testing.T, s *stage) {
		s.become(aPrimary)
		w := s.arrive("app")
		<-w.done
		failure, began, tried := errors.New("refused"), time.Now(), 1
		var err error
		for ; err == nil && w.patience() > 0; tried++ {
			before := time.Now()
			err = w.again(context.Background(), tried, failure)
			if rest := time.Since(before); rest > time.Second || w.patience() > 0 && rest < 75*time.Millisecond {
				t.Errorf("try %d after %v", tried, rest)
			}
		}
		if took := time.Since(began); took != 10*time.Second || tried < 10 || err != nil {
			t.Errorf("%d tries in %v, ended with %v", tried, took, err)
		}
		if err := w.again(context.Background(), tried, failure); !errors.Is(err, failure) {
			t.Errorf("with no time left: %v", err)
		}
		w.end()
	})
}

// A client that wants to read at a position waits until a replica is there; where the route allows it, the primary serves it
// when none comes in time.
func TestHoldForPosition(t *testing.T) {
	position := wire.Param{Name: "options", Value: "-c work_mem=1MB -c pgreplicaproxy.min_lsn=0/C8"} // 200
	in(t, patient, func(t *testing.T, s *stage) {
		s.become(aPrimary, aReplica)
		w := s.arrive("app_replica", position)
		time.Sleep(time.Second)
		ahead := aReplica
		ahead.Replayed = 200
		s.become(aPrimary, ahead)
		<-w.done
		if w.err != nil || w.took != time.Second || !slices.Equal(w.decision.Backends, []string{"db2"}) {
			t.Errorf("after %v: %v, placed on %v", w.took, w.err, w.decision.Backends)
		}
		if got, _ := w.startup().Get("options"); got != "-c work_mem=1MB " {
			t.Errorf("the server sees options %q", got)
		}
		w.end()
		s.become(aPrimary, aReplica)
		w = s.arrive("app_replica", position)
		w.end()
		if told := forClient(w.err); told.Code != "57P03" || !strings.Contains(told.Message, "db2 is replica (has replayed 0/64 of 0/C8)") {
			t.Errorf("the client is told %+v", told)
		}
		w = s.arrive("app", position) // the primary has everything
		w.end()
		if w.err != nil || w.took != 0 {
			t.Errorf("on the primary after %v: %v", w.took, w.err)
		}
		w = s.arrive("app", wire.Param{Name: "options", Value: "--pgreplicaproxy.min_lsn=soon"})
		w.end()
		if told := forClient(w.err); told.Code != "22023" || told.Hint == "" {
			t.Errorf("a position that is none: %+v", told)
		}
	})
	in(t, patient, func(t *testing.T, s *stage) {
		s.settings.Load().routes.Routes[0].Fallback = policy.FallbackLagging
		s.become(aPrimary, aReplica)
		w := s.arrive("app_replica", position)
		<-w.done
		if w.err != nil || w.took != 2*time.Second || !slices.Equal(w.decision.Backends, []string{"db1"}) || w.decision.Verdict != policy.Serve {
			t.Errorf("after %v: %v, placed by %+v", w.took, w.err, w.decision)
		}
		w.end()
	})
}

// Waiting costs a goroutine while it lasts and none afterwards, also over real connections.
func TestHoldLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := newStage(t, Placement{HoldPrimary: time.Hour, MaxWaiting: 10})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	front := tlsfront.Config{PlaintextAllowed: true}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = front.Serve(context.Background(), ln, s.ServeClient)
	}()
	packet, _ := wire.Startup{Version: wire.Version30, Params: []wire.Param{{Name: "user", Value: "app"}}}.AppendBinary(nil)
	for range 3 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the client waits", func() bool { return s.cluster.waiting.size() == 1 })
		_ = conn.Close()
		eventually(t, "the client's place is free", func() bool { return s.cluster.waiting.size() == 0 && s.Sessions() == 0 })
	}
	_ = ln.Close()
	<-served
}
