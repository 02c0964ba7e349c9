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
// ends, or the cluster is removed and the last of its servers forgotten.
func (s *Server) fence(ctx context.Context, u *upkeep) {
	var transitions Transitions
	var settled *settings
	var judged *backends.Snapshot // by settled
	for removed := u.removed; ; {
		now, snapshot := s.settings.Load(), u.known()
		if c := now.clusters[u.name]; c != nil {
			transitions = c.Transitions
		}
		u.standings.watch(snapshot.Backends)
		u.standings.forget(snapshot)
		u.audits.forget(snapshot)
		if now != settled || !sameRoles(judged, snapshot) {
			s.judge(u, func(on backends.Target, d *policy.Decision) (fate, *wire.ErrorResponse) {
				return judgeBy(snapshot, on, d, transitions)
			})
		}
		settled, judged = now, snapshot
		if removed == nil && len(snapshot.States) == 0 {
			return
		}
		select {
		case <-snapshot.Changed():
		case <-now.replaced:
		case <-removed:
			removed = nil
		case <-ctx.Done():
			return
		}
	}
}

// sameRoles reports whether two snapshots mean the same for every session that is on a server. Most differ in positions alone. A session
// that gets its server in between is held against the newer one; see attach.
func sameRoles(a, b *backends.Snapshot) bool {
	return a != nil && slices.EqualFunc(a.States, b.States, func(x, y backends.State) bool {
		return x.Target == y.Target && x.Role == y.Role && x.Claim == y.Claim && x.Status == y.Status && x.Lagging == y.Lagging
	})
}

// judgeBy is the verdict on a session by what is known of its cluster.
func judgeBy(known *backends.Snapshot, on backends.Target, d *policy.Decision, t Transitions) (fate, *wire.ErrorResponse) {
	i := indexOf(known, on)
	if i < 0 {
		return fateOfRemoved(on, known, d.Target), errRemoved(on)
	}
	st, lagging := known.States[i], known.Backends[i].Lagging
	f := fateOf(st, lagging, d.Target, d.Fallback, t)
	if f == stay {
		return stay, nil
	}
	return f, errFenced(st, lagging, d.Target)
}

// indexOf returns the place of this very server in a snapshot, -1 for none: another address under the same name is another
// server.
func indexOf(known *backends.Snapshot, target backends.Target) int {
	return slices.IndexFunc(known.States, func(st backends.State) bool { return st.Target.SameServer(target) })
}

// verdict says what becomes of a session on a server that was placed by a decision, and why.
type verdict func(on backends.Target, d *policy.Decision) (fate, *wire.ErrorResponse)

// judge carries out a verdict on every session that is on a server of a cluster.
func (s *Server) judge(u *upkeep, v verdict) {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	departures := make(map[departure]int)
	for _, sess := range sessions {
		if d := sess.judge(u, v); d.fate != stay {
			departures[d]++
		}
	}
	s.tellDepartures(u.name, departures)
}

// judge carries out a verdict. A session whose client has not heard of the server yet only loses the connection to it, and
// its login goes on with the next one. It returns what became of one that is to end.
func (s *session) judge(u *upkeep, v verdict) (d departure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leg == nil || s.cluster.upkeep != u {
		return d
	}
	f, reason := v(s.target, &s.decision)
	switch {
	case f == stay, f == drain && s.ending != nil && (!s.ending.Idle || !s.ending.Deadline.IsZero()):
	case !s.begun:
		_ = s.leg.SetDeadline(time.Unix(1, 0))
	case f == drain:
		deadline := time.Now().Add(s.server.settings.Load().drainTimeout)
		s.endNow(relay.Ending{Error: reason, Why: "drained", Idle: true, Deadline: deadline})
		d = departure{s.target.Name, drain}
	default:
		if s.ending == nil || s.ending.Idle {
			d = departure{s.target.Name, end}
		}
		s.endNow(relay.Ending{Error: reason, Why: "fenced"})
	}
	return d
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
	case backends.Down, backends.Silent, backends.Conflict, backends.Quarantined, backends.Deserted, backends.Foreign:
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

// fateOfRemoved judges a session for target on a server that the configuration does not name any more. Nobody watches that
// server, so a session that may write there cannot wait once another server is the primary.
func fateOfRemoved(removed backends.Target, snapshot *backends.Snapshot, target policy.Target) fate {
	for _, st := range snapshot.States {
		if st.Role == policy.Primary && st.Target.Address != removed.Address && target != policy.TargetReplica {
			return end
		}
	}
	return drain
}
