package backends

import (
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// LagLimit is how far a replica may be behind the primary. The zero value is no limit; of the two at most one is set.
type LagLimit struct {
	// Bytes of the write-ahead log that the replica has not replayed.
	Bytes uint64
	// Time since the primary wrote what the replica replays now, to the precision of the monitor's interval.
	Time time.Duration
}

// trail remembers when the primary was seen to have written how far, by the clock of this machine. That alone tells a lag in
// seconds: the servers' clocks need not agree with anybody's, an idle primary leaves nobody behind, and a replica that is
// paused, or whose receiver is stuck, is as late as it is. While no primary is seen the trail stays as it is, and so does every lag.
type trail struct {
	primary string
	epoch   uint32
	samples []sample // ascending in both
}

type sample struct {
	at       time.Time
	position uint64
}

// maxSamples bounds a trail. Beyond it the older half is thinned out.
const maxSamples = 1024

// add notes how far the primary had written at a moment. Another primary, or another timeline, begins a new trail.
func (t *trail) add(primary string, epoch uint32, at time.Time, position uint64) {
	if t.primary != primary || t.epoch != epoch {
		*t = trail{primary: primary, epoch: epoch, samples: t.samples[:0]}
	}
	if n := len(t.samples); n > 0 {
		last := &t.samples[n-1]
		if !at.After(last.at) {
			return
		}
		if position <= last.position { // idle: all until now was written by then
			last.at = at
			return
		}
	}
	if len(t.samples) == maxSamples {
		t.thin()
	}
	t.samples = append(t.samples, sample{at, position})
}

// thin drops every other sample of the older half but the first.
func (t *trail) thin() {
	const half = maxSamples / 2
	kept := t.samples[:1]
	for i := 2; i < half; i += 2 {
		kept = append(kept, t.samples[i])
	}
	t.samples = append(kept, t.samples[half:]...)
}

// behind returns by how much a position is behind the primary's last known one. known is false while the trail has no sample,
// dated false when the position is older than the trail, so that the time is only the least that it can be.
func (t *trail) behind(position uint64) (bytes uint64, late time.Duration, known, dated bool) {
	if len(t.samples) == 0 {
		return 0, 0, false, false
	}
	last := t.samples[len(t.samples)-1]
	if position >= last.position {
		return 0, 0, true, true
	}
	passed := t.samples[0]
	for i := len(t.samples) - 1; i >= 0; i-- {
		if t.samples[i].position <= position {
			passed, dated = t.samples[i], true
			break
		}
	}
	return last.position - position, last.at.Sub(passed.at), true, dated
}

// gauge is what is measured of one server from answer to answer.
type gauge struct {
	answered time.Time // the last answer that is in it

	bytes             uint64
	late              time.Duration
	known, dated      bool
	lagging           bool
	calm              int  // answers in a row that were well within the limit
	primary, deserted bool // what it was in its last answer, and whether its standbys have left it
	lonely            int  // answers in a row with too few standbys
}

// measure takes in an answer of a standby. It is lagging from the first answer over the limit until rise answers in a row are
// below half of it, so that none comes and goes at the border. One that receives a timeline which the cluster has left is
// lagging however far it has come, so after a failover until it follows the new primary; one that replays late on purpose, and may, is measured by what it has received.
func (g *gauge) measure(t *trail, o observation, epoch uint32, limit LagLimit) {
	g.bytes, g.late, g.known, g.dated = t.behind(o.reading.replayed)
	bytes, late, known, dated := g.bytes, g.late, g.known, g.dated
	if o.reading.delay > 0 && o.reading.received > 0 {
		bytes, late, known, dated = t.behind(o.reading.received)
	}
	over, calm := false, false
	switch {
	case limit == LagLimit{}:
		calm = true
	case o.reading.timeline != 0 && o.reading.timeline < epoch:
		over = true
	case !known:
		return
	case limit.Bytes > 0:
		over, calm = bytes > limit.Bytes, bytes <= limit.Bytes/2
	default: // what is older than the trail may be of any age
		over, calm = late > limit.Time || !dated, late <= limit.Time/2
	}
	switch {
	case over:
		g.lagging, g.calm = true, 0
	case !calm:
		g.calm = 0
	case g.lagging:
		if g.calm++; g.calm >= rise {
			g.lagging, g.calm = false, 0
		}
	}
}

// count takes in an answer of a primary that wants so many standbys. It is deserted until it has them, and when fall answers
// in a row say that it has them no more.
func (g *gauge) count(o observation, wanted int) {
	switch {
	case o.reading.senders >= wanted:
		g.lonely, g.deserted = 0, false
	case !g.primary:
		g.deserted = true
	default:
		if g.lonely++; g.lonely >= fall {
			g.deserted = true
		}
	}
}

// gauges measures the servers of a cluster.
type gauges struct {
	trail  trail
	server map[string]*gauge
}

// update takes in the answers that are new. It is called for every report, so that a standby is measured by what the primary
// was last known to have written when the standby answered: by a later sample it would be late for no reason.
func (g *gauges) update(v verdict, observations []observation, limit LagLimit, standbys int) {
	server := make(map[string]*gauge, len(observations))
	for i, o := range observations {
		one := g.server[o.target.Name]
		if one == nil {
			one = new(gauge)
		}
		server[o.target.Name] = one
		if one.answered.Equal(o.answered) || o.reading.systemIdentifier != v.memory.SystemIdentifier {
			continue
		}
		one.answered = o.answered
		switch o.reading.role {
		case policy.Primary:
			one.count(o, standbys)
			if i == v.primary {
				g.trail.add(o.target.Name, o.reading.timeline, o.answered, o.reading.written)
			}
		case policy.Replica:
			one.measure(&g.trail, o, v.memory.Epoch, limit)
		}
		one.primary = o.reading.role == policy.Primary
	}
	g.server = server
}

// tell fills in what was measured.
func (g *gauges) tell(states []State) {
	for i := range states {
		st := &states[i]
		one := g.server[st.Target.Name]
		switch st.Claim {
		case policy.Replica:
			st.LagBytes, st.LagBytesKnown, st.LagTime, st.LagTimeKnown = one.bytes, one.known, one.late, one.dated
			st.Lagging = one.lagging
		case policy.Primary:
			if one.deserted && st.Role == policy.Primary {
				st.Role, st.Status = policy.Unknown, Deserted
				st.Detail = "has too few standbys to be sure that it is not cut off"
			}
		}
	}
}
