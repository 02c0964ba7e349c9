package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
)

// vacateInterval is the time between two looks at sessions that are to end, which takes a second at most.
const vacateInterval = 5 * time.Millisecond

// vacate ends the sessions on servers of a cluster that were its primary and could write there, and returns nil once none is
// left: only then is another server served as primary. Each ends at the end of a message, or a second later without one, and
// counts as gone when nothing passes between its server and its client any more. What a server still does for it is told to
// nobody.
func (s *Server) vacate(ctx context.Context, u *upkeep, servers []backends.Target) error {
	for {
		s.mu.Lock()
		sessions := s.snapshotSessions()
		s.mu.Unlock()
		left := false
		for _, sess := range sessions {
			left = sess.vacate(u, servers) || left
		}
		if !left {
			return nil
		}
		select {
		case <-time.After(vacateInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// vacate ends the session if it is on one of the servers and could write there, and reports whether it is.
func (s *session) vacate(u *upkeep, servers []backends.Target) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leg == nil || s.relay != nil && s.relay.Detached() || s.cluster.upkeep != u || !slices.ContainsFunc(servers, s.target.SamePlace) {
		return false
	}
	snapshot, why := u.monitor.Snapshot(), errRemoved(s.target)
	st, _ := snapshot.State(s.target.Name)
	if st.Claim == policy.Replica && st.Target.SamePlace(s.target) && s.decision.Target != policy.TargetPrimary {
		return false // it was restarted: nothing can write there, and the session is a reader's
	}
	if indexOf(snapshot, s.target) >= 0 {
		why = errFenced(st, false, s.decision.Target)
	}
	switch {
	case !s.begun:
		_ = s.leg.SetDeadline(time.Unix(1, 0))
	case s.ending == nil || s.ending.Idle:
		s.endNow(relay.Ending{Error: why, Why: "fenced"})
	}
	return true
}

// Accept makes a server the primary of its cluster by the operator's word. See [backends.Monitor.Accept].
func (s *Server) Accept(cluster, backend string) error {
	c, err := s.clusterNamed(cluster)
	if err != nil {
		return err
	}
	return c.monitor.Accept(backend)
}

// Forget clears what is remembered of a cluster. See [backends.Monitor.Forget].
func (s *Server) Forget(cluster string) error {
	c, err := s.clusterNamed(cluster)
	if err != nil {
		return err
	}
	return c.monitor.Forget()
}
