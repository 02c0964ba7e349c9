package proxy

import (
	"context"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/wire"
)

// fence ends the sessions of a cluster whose server may no longer serve them, on every change of what is known, until ctx
// ends.
func (s *Server) fence(ctx context.Context, c *cluster) {
	for {
		snapshot := c.monitor.Snapshot()
		s.judge(c, func(backend string, d *policy.Decision) (fate, *wire.ErrorResponse) {
			i := slices.IndexFunc(snapshot.States, func(st backends.State) bool { return st.Target.Name == backend })
			if i < 0 {
				return stay, nil
			}
			st, lagging := snapshot.States[i], snapshot.Backends[i].Lagging
			f := fateOf(st, lagging, d.Target, d.Fallback, c.Transitions)
			if f == stay {
				return stay, nil
			}
			return f, errFenced(st, lagging, d.Target)
		})
		select {
		case <-snapshot.Changed():
		case <-ctx.Done():
			return
		}
	}
}

// verdict says what becomes of a session on a server that was placed by a decision, and why.
type verdict func(backend string, d *policy.Decision) (fate, *wire.ErrorResponse)

// judge carries out a verdict on every session that is on a server of a cluster.
func (s *Server) judge(c *cluster, v verdict) {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.judge(c, v)
	}
}

// judge carries out a verdict. A session whose client has not heard of the server yet only loses the connection to it, and
// its login goes on with the next one.
func (s *session) judge(c *cluster, v verdict) {
	s.mu.Lock()
	if s.leg == nil || s.cluster != c {
		s.mu.Unlock()
		return
	}
	f, reason := v(s.target.Name, &s.decision)
	if f != stay && !s.begun {
		_ = s.leg.SetDeadline(time.Unix(1, 0))
		f = stay
	}
	ending := s.ending
	s.mu.Unlock()
	switch {
	case f == stay, f == drain && ending != nil:
	case f == drain:
		s.end(relay.Ending{Error: reason, Why: "drained", Idle: true, Deadline: time.Now().Add(s.server.drainTimeout)})
	default:
		s.end(relay.Ending{Error: reason, Why: "fenced"})
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
// server, the resolver) ends nobody's session; a server that is gone or contradicted does. What a change of role does the
// operator has a say in.
func fateOf(st backends.State, lagging bool, target policy.Target, fallback policy.Fallback, t Transitions) fate {
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
	case st.Claim == policy.Replica && target != policy.TargetPrimary && lagging:
		return t.Lagging.fate()
	case st.Claim == policy.Unknown, target.Serves(st.Claim, fallback):
		return stay
	case st.Claim == policy.Primary:
		return t.Promoted.fate()
	default:
		return t.Demoted.fate()
	}
}

// fate is what a handling means for one session.
func (h Handling) fate() fate {
	switch h {
	case HandleLeave:
		return stay
	case HandleDrain:
		return drain
	default:
		return end
	}
}
