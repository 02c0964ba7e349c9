package proxy

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Sessions stay where they are, and a pool of connections may keep them for ever. Those of this file are asked to move on, a few
// in a second and each only when it is idle outside a transaction: its client reconnects and is placed by what is so then.

const (
	// tendEvery is the time between two looks.
	tendEvery = time.Second
	// agedShare and returnedShare are the parts of a cluster's sessions, or of those on the primary for want of a replica, that
	// are asked to move on in one look at most, though always one; movedShare that of sessions moved for balance.
	agedShare, returnedShare, movedShare = 0.05, 0.05, 0.01
	// unevenness is by how much of its sessions a replica must have more than another until some are moved.
	unevenness = 0.2
)

// resident is a session at work, as it is looked at.
type resident struct {
	*session
	target  policy.Target
	backend string
	busy    bool
}

// tend asks sessions of a cluster to move on, until ctx ends.
func (s *Server) tend(ctx context.Context, u *upkeep) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	credit := 0.0
	for {
		select {
		case <-tick.C:
			if now := s.settings.Load(); now.moves(u.name) {
				s.tendOnce(now.clusters[u.name], &credit)
			}
		case <-ctx.Done():
			return
		}
	}
}

// moves reports whether sessions of a cluster may have to move on for a reason of this file.
func (s *settings) moves(cluster string) bool {
	c := s.clusters[cluster]
	return c != nil && (c.Placement.MaxSessionAge > 0 || c.Placement.Rebalance ||
		slices.ContainsFunc(s.routes.Routes, func(r policy.Route) bool {
			return r.Cluster == cluster && r.Fallback != policy.FallbackNever
		}))
}

// tendOnce looks once. credit is what is left of the sessions that may be moved, from look to look.
func (s *Server) tendOnce(c *cluster, credit *float64) {
	all := s.residents(c.upkeep)
	slices.SortFunc(all, func(a, b resident) int { return cmp.Compare(a.id, b.id) }) // the oldest first
	servers := c.view()
	if age := c.Placement.MaxSessionAge; age > 0 {
		moveOn(older(all, age, time.Now()), atMost(len(all), agedShare), errAged, "aged")
	}
	stranded := onPrimary(all, servers)
	if slices.ContainsFunc(servers, roomy) {
		moveOn(stranded, atMost(len(stranded), returnedShare), errMoved, "returned")
	}
	if c.Placement.Rebalance {
		crowd, total := crowded(all, servers)
		*credit = min(*credit+movedShare*float64(total), max(1, movedShare*float64(total)))
		if n := int(*credit); n > 0 && len(crowd) > 0 {
			*credit -= float64(moveOn(crowd, n, errMoved, "rebalanced"))
		}
	}
}

// view returns the servers of a cluster as a decision would see them now.
func (c *cluster) view() []policy.Backend {
	c.standings.mu.Lock()
	defer c.standings.mu.Unlock()
	return c.standings.fill(c.known().Backends, c.Placement.SlowStart, time.Now())
}

// residents lists the sessions of a cluster that are at work and not about to end.
func (s *Server) residents(u *upkeep) []resident {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	var list []resident
	for _, sess := range sessions {
		sess.mu.Lock()
		if sess.relay != nil && sess.ending == nil && sess.cluster.upkeep == u {
			list = append(list, resident{sess, sess.decision.Target, sess.target.Name, sess.relay.Busy()})
		}
		sess.mu.Unlock()
	}
	return list
}

// moveOn asks up to n sessions to end once they are idle, and returns how many it asked.
func moveOn(list []resident, n int, reason *wire.ErrorResponse, why string) int {
	n = min(n, len(list))
	for _, r := range list[:n] {
		r.end(relay.Ending{Error: reason, Why: why, Idle: true})
	}
	return n
}

// atMost is a share of n, but at least one.
func atMost(n int, share float64) int { return max(1, int(share*float64(n))) }

// older keeps the sessions that have reached the age, which is another one for each session, so that those which began together
// do not end together.
func older(list []resident, age time.Duration, now time.Time) []resident {
	var old []resident
	for _, r := range list {
		if now.Sub(r.started) >= lifetime(r.id, age) {
			old = append(old, r)
		}
	}
	return old
}

// lifetime is the age at which the session of a number moves on: age, give or take a fifth. Sessions with numbers in a row get
// ages far apart (Fibonacci hashing).
func lifetime(id uint64, age time.Duration) time.Duration {
	const golden = 0x9E3779B97F4A7C15
	part := float64(id*golden>>11) / (1 << 53) // in [0,1)
	return time.Duration((0.8 + 0.4*part) * float64(age))
}

// onPrimary keeps the sessions that want a replica and are on a primary.
func onPrimary(list []resident, servers []policy.Backend) []resident {
	var stranded []resident
	for _, r := range list {
		if r.target == policy.TargetReplica && slices.ContainsFunc(servers, func(b policy.Backend) bool {
			return b.Name == r.backend && b.Role == policy.Primary
		}) {
			stranded = append(stranded, r)
		}
	}
	return stranded
}

// roomy reports whether a server takes sessions as a replica.
func roomy(b policy.Backend) bool {
	return b.Role == policy.Replica && b.Weight > 0 && !b.Lagging && !b.Draining && !b.Ejected
}

// crowded returns the idle sessions of the replica that has the most for its weight, if it has so many more than the one with the
// fewest that moving one helps, and the number of all sessions on replicas. While a replica is in its slow start there is nothing
// to be moved: it is on the way to its share.
func crowded(list []resident, servers []policy.Backend) (idle []resident, total int) {
	var most, least policy.Backend
	for _, b := range servers {
		if !roomy(b) {
			continue
		}
		if b.Cold > 0 {
			return nil, 0
		}
		b.Load = 0
		for _, r := range list {
			if r.backend == b.Name {
				b.Load++
			}
		}
		total += b.Load
		if most.Name == "" || b.Busy(0) > most.Busy(0) {
			most = b
		}
		if least.Name == "" || b.Busy(0) < least.Busy(0) {
			least = b
		}
	}
	if most.Name == least.Name || most.Busy(0)-least.Busy(0) <= unevenness*most.Busy(0) || most.Busy(-1) < least.Busy(1) {
		return nil, total
	}
	for _, r := range list {
		if r.backend == most.Name && !r.busy {
			idle = append(idle, r)
		}
	}
	return idle, total
}
