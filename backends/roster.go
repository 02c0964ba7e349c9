package backends

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// roster is whom a monitor watches, and how. It never changes; Update replaces it.
type roster struct {
	config      MonitorConfig      // settled, without the credentials
	credentials func() Credentials // what a function has caught, nobody prints
	watchers    []*watcher         // one for each of config.Targets
}

// newRoster makes the roster of a configuration, and takes over the watchers of old that ask the same server in the same way.
func newRoster(config MonitorConfig, old *roster) *roster {
	config = config.settled()
	credentials := config.Credentials
	config.Credentials = Credentials{}
	next := &roster{config: config, credentials: func() Credentials { return credentials }}
	for _, t := range config.Targets {
		w := old.watcher(t.Name)
		if w == nil || !w.target.SameServer(t) || !old.asks(config, credentials) {
			w = &watcher{
				target: t,
				config: &next.config,
				logIn: func(ctx context.Context) (*session, error) {
					return logIn(ctx, t, credentials, config.Timeout)
				},
				done:   make(chan struct{}),
				wake:   make(chan struct{}, 1),
				record: record{observation: observation{target: t}},
			}
		}
		next.watchers = append(next.watchers, w)
	}
	return next
}

// asks reports whether servers are asked with these credentials, at these times. A nil roster asks nobody.
func (r *roster) asks(config MonitorConfig, credentials Credentials) bool {
	return r != nil && r.credentials() == credentials && r.config.Interval == config.Interval &&
		r.config.Timeout == config.Timeout && r.config.FreshLogin == config.FreshLogin
}

// watcher returns who watches the server of that name, nil for nobody.
func (r *roster) watcher(name string) *watcher {
	if r == nil {
		return nil
	}
	for _, w := range r.watchers {
		if w.target.Name == name {
			return w
		}
	}
	return nil
}

// Update changes whom the monitor watches, and how; Cluster, Logger, OnChange, StateFile and Vacate stay as they are. What is known of a server that
// stays, under its name and address, stays known. New ones are unknown until they have answered, and those that are gone
// vanish from the snapshot, a moment after Update has returned.
func (m *Monitor) Update(config MonitorConfig) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setRoster(newRoster(config, m.roster))
}

// SetTargets is Update for the servers alone.
func (m *Monitor) SetTargets(targets []Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	config := m.roster.config
	config.Targets, config.Credentials = targets, m.roster.credentials()
	m.setRoster(newRoster(config, m.roster))
}

// systemIdentifier is MonitorConfig.SystemIdentifier.
func (m *Monitor) systemIdentifier() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roster.config.SystemIdentifier
}

// setRoster makes Run follow next. The caller holds mu.
func (m *Monitor) setRoster(next *roster) {
	m.roster = next
	m.wakeUp()
}

// wakeUp makes Run look again. The caller holds mu.
func (m *Monitor) wakeUp() {
	select {
	case m.updated <- struct{}{}:
	default: // Run has not come to the last one yet
	}
}

func (m *Monitor) currentRoster() *roster {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.roster
}

// watch is a roster at work. It belongs to Run.
type watch struct {
	roster  *roster // nil before the first
	logger  *slog.Logger
	reports chan report
	stop    map[*watcher]context.CancelFunc // of those that run
	known   map[*watcher]observation        // of those whose server was asked
	running sync.WaitGroup
}

// follow goes over to another roster: watchers that are in it no longer end, new ones begin. One that asks the server of one
// that ends goes on with what that has found out.
func (w *watch) follow(ctx context.Context, next *roster) {
	before := w.roster
	if next == before {
		return
	}
	w.roster = next
	for _, fresh := range next.watchers {
		if w.stop[fresh] != nil {
			continue
		}
		if old := before.watcher(fresh.target.Name); old != nil && old.target.SameServer(fresh.target) {
			fresh.before = old
			if o, asked := w.known[old]; asked {
				w.known[fresh] = o
			}
		} else if before != nil {
			w.logger.InfoContext(ctx, "server added", "cluster", next.config.Cluster, "backend", fresh.target.Name, "address", fresh.target.Address)
		}
		w.start(ctx, fresh)
	}
	if before != nil {
		w.end(ctx, before)
	}
}

// start lets a watcher run until its own end, or that of ctx.
func (w *watch) start(ctx context.Context, watcher *watcher) {
	ctx, w.stop[watcher] = context.WithCancel(ctx)
	w.running.Go(func() {
		watcher.watch(ctx, func(o observation) {
			select {
			case w.reports <- report{watcher, o}:
			case <-ctx.Done():
			}
		})
	})
}

// end stops the watchers of a roster that are not in the current one.
func (w *watch) end(ctx context.Context, before *roster) {
	for _, old := range before.watchers {
		if slices.Contains(w.roster.watchers, old) {
			continue
		}
		w.stop[old]()
		delete(w.stop, old)
		delete(w.known, old)
		if w.roster.watcher(old.target.Name) == nil {
			w.logger.InfoContext(ctx, "server removed", "cluster", before.config.Cluster, "backend", old.target.Name, "address", old.target.Address)
		}
	}
}

// wait ends every watcher and waits until they are gone.
func (w *watch) wait() {
	for _, stop := range w.stop {
		stop()
	}
	w.running.Wait()
}

// take takes a report in, unless it comes from a watcher that is to end.
func (w *watch) take(r report) {
	if w.stop[r.from] != nil {
		w.known[r.from] = r.observation
	}
}

// observations lists what is known of each server of the roster, and whether all of them were asked.
func (w *watch) observations() (list []observation, all bool) {
	list, all = make([]observation, len(w.roster.watchers)), true
	for i, watcher := range w.roster.watchers {
		o, asked := w.known[watcher]
		if !asked {
			o, all = notAsked(watcher.target), false
		}
		o.target = w.roster.config.Targets[i] // which may have another weight than the watcher's
		list[i] = o
	}
	return list, all
}

// notAsked is what is known of a server before its first answer.
func notAsked(t Target) observation { return observation{target: t, detail: "not asked yet"} }
