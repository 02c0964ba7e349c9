package proxy

import (
	"context"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
)

// fence ends the sessions of a cluster whose server may no longer serve them, on every change of what is known, until ctx
// ends.
func (s *Server) fence(ctx context.Context, c *cluster) {
	for {
		snapshot := c.monitor.Snapshot()
		for _, st := range snapshot.States {
			s.fenceBackend(st)
		}
		select {
		case <-snapshot.Changed():
		case <-ctx.Done():
			return
		}
	}
}

// fenceBackend ends the sessions that may not stay on one server.
func (s *Server) fenceBackend(st backends.State) {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.fence(st, s.drainTimeout)
	}
}

// fence ends the session if it is on the server of st and may not stay there. One whose client has not heard of the server
// yet only loses the connection to it, and its login goes on with the next one.
func (s *session) fence(st backends.State, drainTimeout time.Duration) {
	s.mu.Lock()
	f := stay
	if s.leg != nil && s.target.Cluster == st.Target.Cluster && s.target.Name == st.Target.Name {
		f = fateOf(st, s.decision.Target, s.decision.Fallback)
	}
	if f != stay && !s.begun {
		_ = s.leg.SetDeadline(time.Unix(1, 0))
		f = stay
	}
	ending := s.ending
	s.mu.Unlock()
	switch {
	case f == stay, f == drain && ending != nil:
	case f == drain:
		s.end(relay.Ending{
			Error: errFenced(st, s.decision.Target), Why: "drained", Idle: true, Deadline: time.Now().Add(drainTimeout),
		})
	default:
		s.end(relay.Ending{Error: errFenced(st, s.decision.Target), Why: "fenced"})
	}
}

// fate is what becomes of a session when its server's state changes.
type fate uint8

const (
	// stay: the server still is what the session wants, or nothing certain is known against it.
	stay fate = iota
	// drain: what the session does is still right, but it should move on once it is idle.
	drain
	// end: the session must not do one thing more there.
	end
)

// fateOf judges a session for target on a server in state st. Doubt about the monitor's own access (its password, a full
// server, the resolver) ends nobody's session; a server that is gone, contradicted or of another role does.
func fateOf(st backends.State, target policy.Target, fallback policy.Fallback) fate {
	switch st.Status {
	case backends.Down, backends.Silent, backends.Conflict, backends.Foreign:
		return end
	case backends.Starting: // with sessions on it, it is stopping: a primary may soon have a successor
		if target == policy.TargetReplica {
			return stay
		}
		return end
	}
	switch {
	case st.Claim == policy.Unknown, target.Serves(st.Claim, fallback):
		return stay
	case st.Claim == policy.Primary: // promoted: what a replica's session reads there is still right
		return drain
	default: // demoted
		return end
	}
}
