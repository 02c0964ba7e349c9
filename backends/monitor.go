package backends

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// The times of a monitor whose configuration does not say. With these, silence is found within Interval and three times
// Timeout: 4 s.
const (
	DefaultInterval   = time.Second
	DefaultTimeout    = time.Second
	DefaultFreshLogin = 10 * time.Second
)

// MonitorConfig says what to watch, and how. It is read only once in use.
type MonitorConfig struct {
	// Cluster is the cluster's name, for the log.
	Cluster string
	// Targets are the servers, with names of which no two are the same.
	Targets []Target
	// Credentials are those of a role that needs no privilege but to connect. Over plain TCP, and over TLS that does not
	// verify the server's name, a server that asks for more than SCRAM-SHA-256 is not answered.
	Credentials Credentials
	// Interval is the longest time between two questions to a server that is well; zero and less is DefaultInterval.
	Interval time.Duration
	// Timeout is how long a question, or a login and a question, may take; zero and less is DefaultTimeout.
	Timeout time.Duration
	// FreshLogin is the longest life of the monitor's session before it logs in anew, which is how a server is found that
	// still serves its sessions and takes no new ones; zero and less is DefaultFreshLogin.
	FreshLogin time.Duration
	// Logger gets one line for each change of a server's role or status; nil is silent.
	Logger *slog.Logger
}

// Monitor watches the servers of one cluster. All its methods may be called from anywhere at any time; Run once.
type Monitor struct {
	config   MonitorConfig // without the credentials
	snapshot atomic.Pointer[Snapshot]
	first    chan struct{}
	watchers []*watcher
}

// NewMonitor returns a monitor that has asked nobody yet.
func NewMonitor(config MonitorConfig) *Monitor {
	config.Interval = orDefault(config.Interval, DefaultInterval)
	config.Timeout = orDefault(config.Timeout, DefaultTimeout)
	config.FreshLogin = orDefault(config.FreshLogin, DefaultFreshLogin)
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	credentials := config.Credentials
	config.Credentials = Credentials{} // what a function has caught, nobody prints
	m := &Monitor{config: config, first: make(chan struct{})}
	states := make([]State, len(config.Targets))
	for i, t := range config.Targets {
		states[i] = State{Target: t, Detail: "not asked yet"}
		m.watchers = append(m.watchers, &watcher{
			config: &m.config,
			logIn: func(ctx context.Context) (*session, error) {
				return logIn(ctx, t, credentials, config.Timeout)
			},
			wake:   make(chan struct{}, 1),
			record: record{observation: observation{target: t}},
		})
	}
	m.snapshot.Store(newSnapshot(states))
	return m
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// Snapshot returns what is known now. It is never nil: until every server was asked once, all are unknown. It takes no
// lock. After Run has returned it stays as it was last.
func (m *Monitor) Snapshot() *Snapshot { return m.snapshot.Load() }

// FirstRound is closed once every server was asked once, whatever came of it, and the snapshot says so.
func (m *Monitor) FirstRound() <-chan struct{} { return m.first }

// Suspect tells that a client's session could not be started on a server, or found it in another role. The server
// is asked at once, over a fresh login. It never blocks and costs nothing when it is called often; a name that is
// not known is passed over.
func (m *Monitor) Suspect(backend string) {
	for i, t := range m.config.Targets {
		if t.Name == backend {
			select {
			case m.watchers[i].wake <- struct{}{}:
			default: // somebody was faster
			}
		}
	}
}

// report is an observation of the server at index.
type report struct {
	index int
	observation
}

// Run watches until the context ends. It returns when its sessions on the servers are closed and all its goroutines have
// ended, which takes a second at most.
func (m *Monitor) Run(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	reports := make(chan report)
	for i, w := range m.watchers {
		watching.Go(func() {
			w.watch(ctx, func(o observation) {
				select {
				case reports <- report{i, o}:
				case <-ctx.Done():
				}
			})
		})
	}
	m.publish(ctx, reports)
}

// publish turns reports into snapshots. It is the only writer of them.
func (m *Monitor) publish(ctx context.Context, reports <-chan report) {
	observations := make([]observation, len(m.watchers))
	asked := make(map[int]bool)
	identity := ""
	for {
		if len(asked) == len(m.watchers) {
			var states []State
			states, identity = judge(identity, observations)
			m.replace(ctx, states, observations)
			select {
			case <-m.first:
			default:
				close(m.first)
			}
		}
		select {
		case r := <-reports:
			observations[r.index], asked[r.index] = r.observation, true
		case <-ctx.Done():
			return
		}
	}
}

// replace publishes states if they say something new, and logs the servers whose role or status changed.
func (m *Monitor) replace(ctx context.Context, states []State, observations []observation) {
	old := m.Snapshot()
	for i := range states {
		was := old.States[i]
		states[i].Since = was.Since
		if states[i].Role != was.Role || states[i].Status != was.Status {
			states[i].Since = time.Now()
			m.log(ctx, was, states[i], observations[i])
		}
	}
	if slices.Equal(states, old.States) {
		return
	}
	m.snapshot.Store(newSnapshot(states))
	close(old.changed)
}

// log writes the line for one change, with what it stands on.
func (m *Monitor) log(ctx context.Context, was, is State, o observation) {
	level := slog.LevelWarn
	if is.Status == Up {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("cluster", m.config.Cluster),
		slog.String("backend", is.Target.Name),
		slog.String("role", is.Role.String()),
		slog.String("was", was.Role.String()),
		slog.String("status", is.Status.String()),
	}
	if is.Detail != "" {
		attrs = append(attrs, slog.String("detail", is.Detail))
	}
	if is.Claim == policy.Primary {
		attrs = append(attrs, slog.Uint64("timeline", uint64(is.Timeline)))
	}
	if is.Status == Foreign {
		attrs = append(attrs, slog.String("system_identifier", is.SystemIdentifier))
	}
	if o.err != nil {
		attrs = append(attrs, slog.String("error", o.err.Error()))
	}
	m.config.Logger.LogAttrs(ctx, level, "server changed", attrs...)
}
