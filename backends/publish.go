package backends

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// publisher turns observations into snapshots. It belongs to Run.
//
// A primary is served only after two things: what was decided is in the state file, and no session is left on a server that
// was served as primary before it. Until then it is Pending, in a snapshot which says already that the other is not served.
type publisher struct {
	m            *Monitor
	memory       memory
	doubtful     bool  // the primary was accepted in doubt
	unreadable   error // why nothing is known of what was remembered; nobody is served then
	gauges       gauges
	observations []observation // the last ones
	work         sync.WaitGroup

	// open are the servers that were served as primary, where sessions may be that write.
	open map[place]Target
	// vacated gets the end of the vacating that is under way, nil for none. stay calls it off, which makes it vain.
	vacated chan error
	stay    context.CancelFunc
	vain    bool

	file keeper
}

// place is a server by its name and address.
type place struct{ name, network, address string }

func placeOf(t Target) place { return place{t.Name, t.Network, t.Address} }

func newPublisher(m *Monitor) *publisher {
	p := &publisher{m: m, open: make(map[place]Target), stay: func() {}, file: keeper{path: m.stateFile}}
	p.memory, p.unreadable = loadMemory(m.stateFile)
	p.file.kept = p.memory
	return p
}

// publish judges what was observed and publishes what comes of it.
func (p *publisher) publish(ctx context.Context, config MonitorConfig, observations []observation) {
	p.observations = observations
	v := judge(p.memory, p.m.rules(config), observations)
	v.doubtful = v.doubtful || p.doubtful && v.memory.essence() == p.memory.essence()
	p.memory, p.doubtful = v.memory, v.doubtful
	p.gauges.update(v, observations, config.MaxLag, config.MinStandbysForWrite)
	p.gauges.tell(v.states)
	if p.unreadable != nil {
		p.memory = memory{}
		for i := range v.states {
			withhold(&v.states[i], Blind, "what the proxy remembered of the cluster cannot be read")
		}
	} else {
		p.keep(config.now(), v.primary >= 0)
	}
	p.look(v)
	rivals := p.hold(&v)
	p.m.replace(ctx, config.now(), v, p.judgement(), observations)
	p.vacate(ctx, rivals)
}

// look has every server asked at once when a conflict begins: what they said of each other may be a moment old.
func (p *publisher) look(v verdict) {
	for _, st := range v.states {
		if before, _ := p.m.Snapshot().State(st.Target.Name); st.Status == Conflict && before.Status != Conflict {
			for _, other := range v.states {
				p.m.Suspect(other.Target.Name)
			}
			return
		}
	}
}

// withhold keeps a server from being served that would be.
func withhold(st *State, status Status, detail string) {
	if st.Role != policy.Unknown {
		st.Role, st.Status, st.Detail = policy.Unknown, status, detail
	}
}

// judgement is what snapshots tell of the judgement.
func (p *publisher) judgement() Judgement {
	return Judgement{
		SystemIdentifier: p.memory.SystemIdentifier, Primary: p.memory.Primary, Timeline: p.memory.Epoch,
		StateFileError: cmp.Or(p.unreadable, p.file.err),
	}
}

// hold lets a primary wait for what must come before it is served, and returns the servers on which sessions must end.
func (p *publisher) hold(v *verdict) []Target {
	if v.primary < 0 || v.states[v.primary].Role != policy.Primary {
		return nil
	}
	st := &v.states[v.primary]
	here := placeOf(st.Target)
	var rivals []Target
	for at, t := range p.open {
		if at != here {
			rivals = append(rivals, t)
		}
	}
	switch {
	case len(rivals) > 0:
		withhold(st, Pending, "waits until no session is left on "+rivals[0].Name)
	case !p.file.holds(p.memory):
		withhold(st, Pending, "waits until the state file is written")
	default:
		p.stay() // it may be the one that was to be left
		p.vain = p.vacated != nil
		p.open[here] = st.Target
	}
	return rivals
}

// vacate begins to end the sessions on servers that were primary, unless that is under way.
func (p *publisher) vacate(ctx context.Context, rivals []Target) {
	if len(rivals) == 0 || p.vacated != nil {
		return
	}
	ctx, p.stay = context.WithCancel(ctx)
	done := make(chan error, 1)
	p.vacated = done
	p.work.Go(func() {
		if p.m.vacate == nil {
			done <- nil
			return
		}
		done <- p.m.vacate(ctx, slices.Clone(rivals))
	})
}

// left takes in that the vacating is over.
func (p *publisher) left(err error) {
	if err == nil && !p.vain {
		clear(p.open) // nobody was served as primary meanwhile
	}
	p.vacated, p.vain = nil, false
}

// keep sees to it that the state file says what is remembered. How far the primary has got is written when it is lost.
func (p *publisher) keep(now time.Time, primary bool) {
	p.file.keep(now, p.memory, primary, &p.work)
}

// stored takes in what came of writing the file.
func (p *publisher) stored(ctx context.Context, now time.Time, err error) {
	before := p.file.err
	p.file.stored(now, err)
	switch {
	case err != nil && before == nil:
		p.m.logger.ErrorContext(ctx, "roles not stored: after a restart now, a stale primary could be believed",
			"cluster", p.m.cluster, "err", err)
	case err == nil && before != nil:
		p.m.logger.InfoContext(ctx, "roles stored again", "cluster", p.m.cluster)
	}
}

// close ends what is under way, and writes how far the primary had got.
func (p *publisher) close() {
	p.stay()
	p.work.Wait()
	if p.unreadable == nil && p.file.path != "" && p.memory.Position != p.file.kept.Position {
		_ = saveMemory(p.file.path, p.memory) // only the position is lost
	}
}
