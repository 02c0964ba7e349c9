package e2e

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// switchover makes another server the primary in order: the old one is stopped, which hands over all that it has, the other
// one is promoted, and the rest follow it. Nothing is lost by that, however the servers replicate.
func (r *faultRig) switchover(from, to *pgcluster.Server) {
	r.t.Helper()
	ctx := testContext(r.t)
	r.must(from.Stop(ctx, pgcluster.Fast))
	r.must(to.Promote(ctx))
	for _, s := range r.c.Servers() {
		if s != to {
			r.must(s.Follow(ctx, to))
		}
	}
}

// The primary changes in order, there and back, again and again, while an application writes. New sessions wait, and none is
// refused; nothing is lost.
func TestFault18Switchover(t *testing.T) {
	r := startFault(t, faultSetup{async: true, lines: []string{"hold_primary = \"10s\"", "hold_replica = \"10s\""}})
	from, to := r.db1, r.db2
	for range long(2, 20) {
		at := r.load.now()
		seen := r.p.logged()
		r.switchover(from, to)
		r.fenced(from, at, crashGoal)
		r.load.waitAll(to)
		r.p.waitChange(seen, from.Name, "replica", "up")
		from, to = to, from
	}
	for kind := range loadMix {
		r.wantNoRefusal(kind)
	}
	r.finish(from)
}
