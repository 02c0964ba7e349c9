package backends

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/replicon/pgreplicaproxy/policy"
)

// world is a cluster and a proxy in front of it, as a random history sees them. Servers say what they like; sessions end only
// when the publisher has them ended, and that takes as long as it takes.
type world struct {
	t    *rapid.T
	path string
	now  time.Time

	monitor *Monitor
	p       *publisher
	config  MonitorConfig
	servers []observation
	release chan struct{}

	sessions map[place]bool // where sessions may write
	before   memory
}

var serverNames = []string{"db1", "db2", "db3", "db4"}

func newWorld(t *rapid.T, dir string) *world {
	w := &world{t: t, path: filepath.Join(dir, "main.json"), now: begin}
	_ = os.Remove(w.path)
	for _, name := range serverNames[:rapid.IntRange(1, 3).Draw(t, "servers")] {
		w.servers = append(w.servers, gone(name, Unknown).observation())
	}
	w.config = MonitorConfig{
		OnConflict:                rapid.SampledFrom([]OnConflict{ConflictAuto, ConflictNewest, ConflictKeep, ConflictRefuse}).Draw(t, "on_conflict"),
		AllowSameTimelineTakeover: rapid.Bool().Draw(t, "takeover"),
		MinStandbysForWrite:       rapid.IntRange(0, 1).Draw(t, "standbys"),
		MaxLag:                    LagLimit{Bytes: 100},
	}
	w.start()
	return w
}

// start is a proxy that begins, with the state file as it is. It has no sessions.
func (w *world) start() {
	w.sessions = make(map[place]bool)
	w.release = make(chan struct{})
	w.monitor = NewMonitor(MonitorConfig{Cluster: "main", StateFile: w.path, Vacate: func(ctx context.Context, servers []Target) error {
		select {
		case <-w.release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	w.p = newPublisher(w.monitor)
	w.before = w.p.memory
}

// stop is a proxy that is killed: nothing more is written.
func (w *world) stop() {
	w.p.stay()
	w.p.work.Wait()
}

// observe is a round of the monitor's.
func (w *world) observe() {
	w.now = w.now.Add(time.Second)
	if named := w.config.SystemIdentifier; named != "" && named != w.p.memory.SystemIdentifier {
		w.before = memory{} // what is remembered is of another cluster
	}
	config := w.config.settled()
	config.now = func() time.Time { return w.now }
	w.p.publish(context.Background(), config, slices.Clone(w.servers))
	w.check()
}

// check holds what is published against the promises.
func (w *world) check() {
	s := w.monitor.Snapshot()
	defer func() { w.before = w.p.memory }()
	primary := -1
	for i, st := range s.States {
		if st.Role != policy.Unknown && (s.Judgement.SystemIdentifier == "" || st.SystemIdentifier != s.Judgement.SystemIdentifier) {
			w.t.Fatalf("%s of another cluster is served", st.Target.Name)
		}
		if st.Role == policy.Primary {
			if primary >= 0 {
				w.t.Fatalf("%s and %s are served", s.States[primary].Target.Name, st.Target.Name)
			}
			primary = i
		}
	}
	if named := w.config.SystemIdentifier; named != "" && w.p.memory.SystemIdentifier != named {
		w.t.Fatalf("the cluster is %q, and %q was named", w.p.memory.SystemIdentifier, named)
	}
	if w.p.memory.Epoch < w.before.Epoch {
		w.t.Fatalf("the epoch went back from %d to %d", w.before.Epoch, w.p.memory.Epoch)
	}
	if primary < 0 {
		return
	}
	st := s.States[primary]
	if st.Claim != policy.Primary || st.Timeline < w.before.Epoch || st.Timeline != s.Judgement.Timeline || st.Target.Name != s.Judgement.Primary {
		w.t.Fatalf("%s is served on timeline %d; judgement %+v, before %+v", st.Target.Name, st.Timeline, s.Judgement, w.before)
	}
	if kept, err := loadMemory(w.path); err != nil || kept.essence() != w.p.memory.essence() {
		w.t.Fatalf("%s is served by %+v, and the file says %+v, %v", st.Target.Name, w.p.memory, kept, err)
	}
	w.sessions[placeOf(st.Target)] = true // somebody comes at once, and stays
	if len(w.sessions) > 1 {
		w.t.Fatalf("sessions write on %v", slices.Collect(maps.Keys(w.sessions)))
	}
}

func (w *world) draw(name string) observation {
	o := saw{
		name: name, identity: rapid.SampledFrom([]string{"A", "A", "A", "A", "B"}).Draw(w.t, "identity"),
		timeline: uint32(rapid.IntRange(1, 4).Draw(w.t, "timeline")),
		written:  uint64(rapid.IntRange(0, 1000).Draw(w.t, "position")),
		senders:  rapid.IntRange(0, 1).Draw(w.t, "senders"),
		upstream: rapid.SampledFrom(append([]string{""}, serverNames...)).Draw(w.t, "upstream"),
		status:   rapid.SampledFrom([]Status{Up, Up, Up, Up, NoLogin, Saturated, Misconfigured, Blind, Unknown, Down, Silent, Starting}).Draw(w.t, "status"),
		claim:    rapid.SampledFrom([]policy.Role{policy.Primary, policy.Replica}).Draw(w.t, "role"),
	}
	role := o.claim
	switch o.status {
	case Unknown, Down, Silent, Starting:
		o.claim = policy.Unknown
	case Saturated, Misconfigured, Blind:
		if rapid.Bool().Draw(w.t, "stale") {
			o.claim = policy.Unknown
		}
	}
	observed := o.observation()
	observed.reading.role, observed.reading.replayed, observed.answered = role, o.written, w.now
	return observed
}

// stored lets a writing of the file end.
func (w *world) stored() {
	if w.p.file.done != nil {
		w.p.stored(context.Background(), w.now, <-w.p.file.done)
	}
}

// No history, with an operator who does what he likes, makes two servers written to at once, or a server that is stale or of
// another cluster served.
func TestNeverTwoPrimaries(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, dir)
		defer func() { w.stop() }()
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { w.observe() },
			"a server changes": func(*rapid.T) {
				i := rapid.IntRange(0, len(w.servers)-1).Draw(t, "server")
				w.servers[i] = w.draw(w.servers[i].target.Name)
			},
			"a standby is promoted": func(*rapid.T) {
				i := rapid.IntRange(0, len(w.servers)-1).Draw(t, "server")
				if o := &w.servers[i]; o.claim == policy.Replica {
					o.claim, o.reading.role, o.reading.timeline, o.answered = policy.Primary, policy.Primary, w.p.memory.Epoch+1, w.now
				}
			},
			"a server goes down": func(*rapid.T) {
				i := rapid.IntRange(0, len(w.servers)-1).Draw(t, "server")
				w.servers[i].status, w.servers[i].claim = Down, policy.Unknown
			},
			"the configuration changes": func(*rapid.T) {
				name := rapid.SampledFrom(serverNames).Draw(t, "name")
				at := slices.IndexFunc(w.servers, func(o observation) bool { return o.target.Name == name })
				switch {
				case at < 0:
					w.servers = append(w.servers, w.draw(name))
				case len(w.servers) > 1:
					w.servers = slices.Delete(slices.Clone(w.servers), at, at+1)
				}
			},
			"the file is written": func(*rapid.T) { w.stored() },
			"the last session ends": func(*rapid.T) {
				if w.p.vacated == nil {
					return
				}
				left := !w.p.vain // the ones that were to be left, and nobody else
				close(w.release)
				err := <-w.p.vacated
				w.release = make(chan struct{})
				if err == nil && left {
					clear(w.sessions)
				}
				w.p.left(err)
			},
			"the proxy restarts": func(*rapid.T) {
				w.stop()
				w.start()
			},
			"the proxy restarts without its file": func(*rapid.T) {
				w.stop()
				_ = os.Remove(w.path)
				w.start()
			},
			"the operator names the cluster": func(*rapid.T) {
				w.config.SystemIdentifier = rapid.SampledFrom([]string{"", "A", "B"}).Draw(t, "identifier")
			},
			"the operator accepts": func(*rapid.T) {
				o := rapid.SampledFrom(w.servers).Draw(t, "server")
				named := w.config.SystemIdentifier
				if o.claim == policy.Primary && (named == "" || named == o.reading.systemIdentifier) {
					w.p.memory = w.p.memory.accepted(o, w.servers)
					w.before = w.p.memory
				}
			},
			"the operator makes forget": func(*rapid.T) {
				w.p.memory = memory{}
				w.before = memory{}
			},
			"the manager speaks": func(*rapid.T) {
				w.monitor.SetLeader(rapid.SampledFrom(append([]string{""}, serverNames...)).Draw(t, "leader"))
			},
		})
	})
}

// After whatever has happened, a cluster of one primary with its standbys on a new timeline is served again, without anybody's
// help, and all of it.
func TestAlwaysServedAgain(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, dir)
		defer func() { w.stop() }()
		w.config.MinStandbysForWrite = 0
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			i := rapid.IntRange(0, len(w.servers)-1).Draw(t, "server")
			w.servers[i] = w.draw(w.servers[i].target.Name)
			w.observe()
		}
		if w.p.memory.SystemIdentifier == "B" || w.p.memory.SystemIdentifier == "" {
			return // then it is another cluster
		}
		leader := rapid.IntRange(0, len(w.servers)-1).Draw(t, "primary")
		for round := range 10 {
			for i := range w.servers {
				name := w.servers[i].target.Name
				s := standbyOf(name, w.servers[leader].target.Name, 9)
				if i == leader {
					s = primaryOn(name, 9)
				}
				s.written = 1000 + uint64(round)
				w.servers[i] = s.observation()
				w.servers[i].reading.replayed, w.servers[i].answered = s.written, w.now
			}
			w.observe()
			w.stored()
			if w.p.vacated != nil {
				close(w.release)
				w.p.left(<-w.p.vacated)
				w.release = make(chan struct{})
				clear(w.sessions)
			}
		}
		for i, st := range w.monitor.Snapshot().States {
			want := policy.Replica
			if i == leader {
				want = policy.Primary
			}
			if st.Role != want || st.Status != Up {
				t.Fatalf("%s is %s, %s (%s)", st.Target.Name, st.Role, st.Status, st.Detail)
			}
		}
	})
}
