package proxy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/policy"
)

// Placement says how the new sessions of a cluster are placed. The zero value makes nobody wait and bounds nothing.
type Placement struct {
	// HoldPrimary and HoldReplica are how long a session may wait for a server, before it is dialled or after it failed: the
	// former where a primary will do, the latter where it takes a replica.
	HoldPrimary, HoldReplica time.Duration
	// MaxWaiting is how many sessions may wait at a time.
	MaxWaiting int
	// MaxDials is how many sessions may be on their way to one server at a time, from the dial to the server's first message; zero is
	// any number.
	MaxDials int
	// SlowStart is the time in which a replica that has come back gets to its full share of the new sessions.
	SlowStart time.Duration
	// MaxSessionAge, give or take a fifth, is the age at which a session is asked to move on; zero is never.
	MaxSessionAge time.Duration
	// Rebalance moves sessions from the replica that has the most of them, when one has far less.
	Rebalance bool
}

// standings are what the proxy itself knows of the servers of one cluster, beside what its monitor tells. The zero value
// knows nothing. A server is known from its first mention on.
type standings struct {
	mu      sync.Mutex
	byName  map[string]*standing
	running bool          // once the first servers were seen: what comes later has come back, or is new
	news    chan struct{} // closed and renewed when a server may be used again
}

// standing is what is known of one server. The zero value is a server that nothing is known of.
type standing struct {
	// sessions are those placed there, from the decision to their end.
	sessions int
	// dials has one element for each session on its way there; nil before the first.
	dials chan struct{}
	// draining keeps new sessions away, by an operator's wish.
	draining bool
	// serving is true for a replica that takes sessions; since is when that began, zero for one that did so from the start.
	serving bool
	since   time.Time
	outlier outlier
}

// of returns the standing of a server. The caller holds mu.
func (s *standings) of(name string) *standing {
	st := s.byName[name]
	if st == nil {
		if s.byName == nil {
			s.byName = make(map[string]*standing)
		}
		st = &standing{}
		s.byName[name] = st
	}
	return st
}

// decide places a session by what is known now, and counts it where it goes first: two that are placed at the same time do not
// take each other's place. The caller is the login; the session is not on a server.
func (s *session) decide() {
	cluster := s.settings.clusters[s.settings.routes.Cluster(s.request)]
	if cluster == nil {
		s.decided(s.settings.routes.Decide(s.request, nil, rand.Float64), nil)
		return
	}
	snapshot := cluster.known()
	all := &cluster.standings
	all.mu.Lock()
	all.leave(s.placed)
	s.placed = ""
	view := policy.View{cluster.name: all.fill(snapshot.Backends, cluster.Placement.SlowStart, time.Now())}
	d := s.settings.routes.Decide(s.request, view, rand.Float64)
	if d.Verdict == policy.Serve {
		s.placed = d.Backends[0]
		all.of(s.placed).sessions++
	}
	all.mu.Unlock()
	s.decided(d, cluster)
}

// decided notes a decision.
func (s *session) decided(d policy.Decision, c *cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decision, s.cluster = d, c
}

// forget drops servers that are gone and have no session any more: of names that come from elsewhere there is no end.
func (s *standings) forget(known *backends.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byName, func(name string, st *standing) bool {
		_, named := known.State(name)
		return !named && st.sessions == 0
	})
}

// moveTo counts the session on a server instead of the one that counts it now; the empty name is none.
func (s *session) moveTo(name string) {
	if s.placed == name {
		return
	}
	all := &s.cluster.standings
	all.mu.Lock()
	defer all.mu.Unlock()
	all.leave(s.placed)
	if s.placed = name; name != "" {
		all.of(name).sessions++
	}
}

// leave counts a session less; the empty name is no server. The caller holds mu.
func (s *standings) leave(name string) {
	if name != "" {
		s.of(name).sessions--
	}
}

// fill adds to servers as the monitor knows them what is known here. They stay as they are; a copy is returned. The caller holds
// mu.
func (s *standings) fill(known []policy.Backend, slowStart time.Duration, now time.Time) []policy.Backend {
	list := append([]policy.Backend(nil), known...)
	for i := range list {
		b, st := &list[i], s.of(list[i].Name)
		b.Draining, b.Load, b.Ejected = st.draining, st.sessions, now.Before(st.outlier.until)
		st.observe(b.Role == policy.Replica && !b.Lagging && !b.Draining, s.running, now)
		b.Cold = st.cold(slowStart, now)
	}
	s.running = s.running || slices.ContainsFunc(known, func(b policy.Backend) bool { return b.Role != policy.Unknown })
	return list
}

// observe notes whether a server takes sessions as a replica. One that does so when the proxy begins to run has not come back.
func (st *standing) observe(serving, running bool, now time.Time) {
	if serving && !st.serving && running {
		st.since = now
	}
	st.serving = serving
}

// cold is the part of its weight that does not count yet for a server in its slow start.
func (st *standing) cold(slowStart time.Duration, now time.Time) float64 {
	if !st.serving || st.since.IsZero() {
		return 0
	}
	return max(0, 1-float64(now.Sub(st.since))/float64(max(slowStart, 1)))
}

// watch keeps up with what the monitor says, so that a server's slow start begins when it is back and not with the next
// session.
func (s *standings) watch(known []policy.Backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fill(known, 0, time.Now())
	for name, st := range s.byName { // servers that are no more
		if st.sessions == 0 && len(st.dials) == 0 && !named(known, name) {
			delete(s.byName, name)
		}
	}
}

func named(known []policy.Backend, name string) bool {
	for _, b := range known {
		if b.Name == name {
			return true
		}
	}
	return false
}

// dial waits until fewer than most sessions are on their way to a server. The function returned must be called when this one
// is there, or has given up.
func (s *standings) dial(ctx context.Context, name string, most int) (done func(), err error) {
	if most <= 0 {
		return func() {}, nil
	}
	s.mu.Lock()
	st := s.of(name)
	if cap(st.dials) != most {
		st.dials = make(chan struct{}, most)
	}
	dials := st.dials
	s.mu.Unlock()
	select {
	case dials <- struct{}{}:
		return func() { <-dials }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// isDraining reports whether an operator has taken a server out.
func (s *standings) isDraining(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(name).draining
}

// how tells whether an operator has taken a server out, and whether it is ejected.
func (s *standings) how(name string, now time.Time) (drained, ejected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(name)
	return st.draining, now.Before(st.outlier.until)
}

// drain notes an operator's wish.
func (s *standings) drain(name string, drain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(name).draining = drain
	if s.news != nil && !drain {
		close(s.news)
		s.news = nil
	}
}

// changed returns a channel that is closed when a server that was out may be used again.
func (s *standings) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news == nil {
		s.news = make(chan struct{})
	}
	return s.news
}

// rate notes how a server has treated one more client. err is why it could not be reached, if so.
func (s *session) rate(target backends.Target, failed bool, err error) {
	all := &s.cluster.standings
	if !failed {
		all.succeeded(target.Name)
		return
	}
	s.mu.Lock()
	unusable := s.mayUse(target) != nil
	s.mu.Unlock()
	if unusable || ours(err) {
		return
	}
	if d := all.failed(target.Name, s.cluster.known().Backends, time.Now()); d > 0 {
		s.server.events.Add(events.Event{
			Level: events.Warning, Kind: events.Server, Cluster: s.cluster.name, Backend: target.Name,
			Text: fmt.Sprintf("%s is passed over for %v: clients have failed to reach it", target.Name, d),
		})
		s.server.log.Warn("server ejected", "cluster", s.cluster.name, "backend", target.Name, "for", d.String(), "err", err)
	}
}
