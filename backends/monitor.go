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
	// OnProbe, where it is not nil, is called after each question to a server, with whether it was answered and the time
	// that took, a login included where one was due. It must return at once, and may be called for several servers at a time.
	OnProbe func(backend string, answered bool, took time.Duration) `json:"-"`
	// OnChange, where it is not nil, is called for each of the logged changes, one after the other, once the snapshot that has
	// it is published. It must not block, for nothing is published meanwhile.
	OnChange func(Change) `json:"-"`
}

// Change is one change of a server's role or status.
type Change struct {
	Cluster string
	Time    time.Time
	Was, Is State
	// Err is the fault behind it, nil where there is none. It may tell more than a client should read.
	Err error
}

// Monitor watches the servers of one cluster. All its methods may be called from anywhere at any time; Run once.
type Monitor struct {
	cluster  string
	logger   *slog.Logger
	onChange func(Change)
	snapshot atomic.Pointer[Snapshot]
	first    chan struct{}

	mu      sync.Mutex
	roster  *roster
	updated chan struct{} // has one place: a new roster
}

// NewMonitor returns a monitor that has asked nobody yet.
func NewMonitor(config MonitorConfig) *Monitor {
	m := &Monitor{
		cluster: config.Cluster, logger: config.Logger, onChange: config.OnChange, first: make(chan struct{}), updated: make(chan struct{}, 1),
		roster: newRoster(config, nil),
	}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	states := make([]State, len(config.Targets))
	for i, t := range config.Targets {
		states[i] = state(notAsked(t))
	}
	m.snapshot.Store(newSnapshot(states))
	return m
}

// settled returns c with its times filled in.
func (c MonitorConfig) settled() MonitorConfig {
	c.Interval = orDefault(c.Interval, DefaultInterval)
	c.Timeout = orDefault(c.Timeout, DefaultTimeout)
	c.FreshLogin = orDefault(c.FreshLogin, DefaultFreshLogin)
	return c
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

// FirstRound is closed once every server was asked once, whatever came of it, and the snapshot says so. Servers that Update
// brings later are unknown until they were asked, and nobody waits for them.
func (m *Monitor) FirstRound() <-chan struct{} { return m.first }

// Suspect tells that a client's session could not be started on a server, or found it in another role. The server
// is asked at once, over a fresh login. It never blocks and costs nothing when it is called often; a name that is
// not known is passed over.
func (m *Monitor) Suspect(backend string) {
	if w := m.currentRoster().watcher(backend); w != nil {
		select {
		case w.wake <- struct{}{}:
		default: // somebody was faster
		}
	}
}

// report is what a watcher has observed.
type report struct {
	from *watcher
	observation
}

// Run watches until the context ends. It returns when its sessions on the servers are closed and all its goroutines have
// ended, which takes a second at most.
func (m *Monitor) Run(ctx context.Context) {
	w := watch{
		logger: m.logger, reports: make(chan report), stop: make(map[*watcher]context.CancelFunc), known: make(map[*watcher]observation),
	}
	defer w.wait()
	identity := ""
	for {
		w.follow(ctx, m.currentRoster())
		if observations, all := w.observations(); all || m.begun() {
			var states []State
			states, identity = judge(identity, observations)
			m.replace(ctx, states, observations)
			m.begin()
		}
		select {
		case r := <-w.reports:
			w.take(r)
		case <-m.updated:
		case <-ctx.Done():
			return
		}
	}
}

// begun reports whether the first round is over.
func (m *Monitor) begun() bool {
	select {
	case <-m.first:
		return true
	default:
		return false
	}
}

// begin ends the first round. Run alone calls it.
func (m *Monitor) begin() {
	if !m.begun() {
		close(m.first)
	}
}

// replace publishes states if they say something new, and logs the servers whose role or status changed. Run alone calls it.
func (m *Monitor) replace(ctx context.Context, states []State, observations []observation) {
	old := m.Snapshot()
	var changes []Change
	for i := range states {
		was, known := old.State(states[i].Target.Name)
		if !known {
			was = state(notAsked(states[i].Target))
		}
		states[i].Since = was.Since
		if states[i].Role != was.Role || states[i].Status != was.Status {
			states[i].Since = time.Now()
			changes = append(changes, Change{
				Cluster: m.cluster, Time: states[i].Since, Was: was, Is: states[i], Err: observations[i].err,
			})
		}
	}
	if slices.Equal(states, old.States) {
		return
	}
	m.snapshot.Store(newSnapshot(states))
	close(old.changed)
	for _, c := range changes {
		m.log(ctx, c)
		if m.onChange != nil {
			m.onChange(c)
		}
	}
}

// log writes the line for one change, with what it stands on.
func (m *Monitor) log(ctx context.Context, c Change) {
	was, is := c.Was, c.Is
	level := slog.LevelWarn
	if is.Status == Up {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("cluster", m.cluster),
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
	if c.Err != nil {
		attrs = append(attrs, slog.String("error", c.Err.Error()))
	}
	m.logger.LogAttrs(ctx, level, "server changed", attrs...)
}
