package backends

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// The times of a monitor whose configuration does not say. With these, silence is found within Interval and three times
// Timeout and a little: 4 s.
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
	// MaxLag is how far a replica may be behind before policy.Backend.Lagging says so.
	MaxLag LagLimit
	// AllowDelayed serves standbys that replay late on purpose (recovery_min_apply_delay). They are measured by what they have
	// received.
	AllowDelayed bool
	// SystemIdentifier is the cluster's; a server with another one is never served. Empty is that of all servers at the first
	// start, once they agree. Another one than before forgets what was remembered.
	SystemIdentifier string
	// OnConflict says what is done while several servers claim to be the primary.
	OnConflict OnConflict
	// MinStandbysForWrite is how many standbys a primary needs to be served: one that is cut off from all others has lost them.
	MinStandbysForWrite int
	// AllowSameTimelineTakeover accepts a primary on the timeline of one that is down, for clusters in which one server takes over
	// the data of another.
	AllowSameTimelineTakeover bool
	// StateFile is where the monitor keeps what it must not forget; see CheckStateFile. Empty keeps it for the length of Run.
	StateFile string
	// Vacate ends every session on the servers that could write there, and returns nil when none is left, or an error once ctx
	// ends. It is called before another server than these is served as primary. Nil is for a monitor without sessions.
	Vacate func(ctx context.Context, servers []Target) error `json:"-"`
	// Logger gets one line for each change of a server's role or status; nil is silent.
	Logger *slog.Logger
	// OnProbe, where it is not nil, is called after each question to a server, with whether it was answered and the time
	// that took, a login included where one was due. It must return at once, and may be called for several servers at a time.
	OnProbe func(backend string, answered bool, took time.Duration) `json:"-"`
	// OnChange, where it is not nil, is called for each of the logged changes, one after the other, once the snapshot that has
	// it is published. It must not block, for nothing is published meanwhile.
	OnChange func(Change) `json:"-"`

	now func() time.Time // nil is time.Now
}

// Monitor watches the servers of one cluster. All its methods may be called from anywhere at any time; Run once.
type Monitor struct {
	cluster   string
	logger    *slog.Logger
	onChange  func(Change)
	stateFile string
	vacate    func(context.Context, []Target) error
	snapshot  atomic.Pointer[Snapshot]
	first     chan struct{}
	over      chan struct{} // closed when Run returns
	orders    chan order

	mu      sync.Mutex
	roster  *roster
	leader  string
	updated chan struct{} // has one place: a new roster or leader
}

// NewMonitor returns a monitor that has asked nobody yet.
func NewMonitor(config MonitorConfig) *Monitor {
	m := &Monitor{
		cluster: config.Cluster, logger: config.Logger, onChange: config.OnChange, stateFile: config.StateFile,
		vacate: config.Vacate, first: make(chan struct{}), over: make(chan struct{}), orders: make(chan order),
		updated: make(chan struct{}, 1), roster: newRoster(config, nil),
	}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	states := make([]State, len(config.Targets))
	for i, t := range config.Targets {
		states[i] = state(notAsked(t))
	}
	m.snapshot.Store(newSnapshot(states, Judgement{}))
	return m
}

// settled returns c with its times filled in.
func (c MonitorConfig) settled() MonitorConfig {
	c.Interval = orDefault(c.Interval, DefaultInterval)
	c.Timeout = orDefault(c.Timeout, DefaultTimeout)
	c.FreshLogin = orDefault(c.FreshLogin, DefaultFreshLogin)
	if c.now == nil {
		c.now = time.Now
	}
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

// FirstRound is closed once every server was asked once, whatever came of it, and the state file and the snapshot say so.
// Servers that Update brings later are unknown until they were asked, and nobody waits for them.
func (m *Monitor) FirstRound() <-chan struct{} { return m.first }

// Suspect tells that a client's session could not be started on a server, was lost with it, or found it in another role. The
// server is asked at once, over a fresh login: one that is gone refuses that, long before the monitor's own session ends. It never
// blocks and costs nothing when it is called often; a name that is not known is passed over.
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
	defer close(m.over)
	defer w.wait()
	p := newPublisher(m)
	defer p.close()
	if p.unreadable != nil {
		m.logger.ErrorContext(ctx, "nobody is served", "cluster", m.cluster, "err", p.unreadable)
	}
	var carriedOut func()
	for {
		w.follow(ctx, m.currentRoster())
		config := w.roster.config
		if observations, all := w.observations(); all || m.begun() {
			p.publish(ctx, config, observations)
			if p.file.holds(p.memory) { // else the primary is Pending for a moment yet
				m.begin()
			}
		}
		if carriedOut != nil {
			carriedOut()
			carriedOut = nil
		}
		select {
		case r := <-w.reports:
			w.take(r)
		case <-m.updated:
		case o := <-m.orders:
			err := o.carryOut(p)
			carriedOut = func() { o.done <- err }
		case err := <-p.vacated:
			p.left(err)
		case err := <-p.file.done:
			p.stored(ctx, config.now(), err)
		case <-p.file.late():
			p.stored(ctx, config.now(), errSlowWrite)
		case <-ctx.Done():
			return
		}
	}
}

// rules are those of a configuration, with what the cluster's manager says at present.
func (m *Monitor) rules(config MonitorConfig) rules {
	m.mu.Lock()
	defer m.mu.Unlock()
	return rules{
		identity: config.SystemIdentifier, onConflict: config.OnConflict, takeover: config.AllowSameTimelineTakeover,
		allowDelayed: config.AllowDelayed, leader: m.leader,
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
