package proxy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/discovery"
	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Config is what a [Server] is made of. It is read only once in use.
type Config struct {
	Clusters []ClusterConfig
	Routes   policy.Rules
	// DrainTimeout is how long sessions of a promoted replica, or of a server that Update has removed, may go on until they
	// are idle; zero ends them at once.
	DrainTimeout time.Duration
	// Leaves returns the SHA-256 of every certificate, in DER, that clients may be shown at present, for Server.Audits. Nil is
	// for certificates that no server has.
	Leaves func() [][32]byte
	// Logger gets one line for each session at its end, and one for each change of a server; nil is silent.
	Logger *slog.Logger
	// Gate is the listeners', asked before a stranger's CancelRequest goes to servers, and before the log gets a line about who
	// was refused; nil lets every one through.
	Gate *admission.Gate `json:"-"`
	// Metrics counts what happens; nil counts nothing.
	Metrics *metrics.Metrics `json:"-"`
	// Events are told of servers that change and of sessions that the program ends; nil remembers nothing.
	Events *events.Log `json:"-"`
}

// ClusterConfig is one cluster as an operator describes it.
type ClusterConfig struct {
	// Monitor holds the servers and how they are watched; Monitor.Cluster is the cluster's name. Its Logger is set by New.
	Monitor backends.MonitorConfig
	// Discovery names sources of further servers.
	Discovery discovery.Config
	// Allow is what a server may ask of a client.
	Allow Methods
	// Passthrough, when not nil, makes the proxy end SCRAM itself instead of relaying it.
	Passthrough *Passthrough `json:"-"`
	// AllowMonitorUser lets clients log in as the monitor's role, which is refused otherwise.
	AllowMonitorUser bool
	// Transitions say what becomes of sessions whose server changes its role.
	Transitions Transitions
	// Placement says how new sessions are placed.
	Placement Placement
	// NameClients adds the client's address to the application_name that its server sees.
	NameClients bool
	// BroadcastCancels passes a CancelRequest whose key is not known here to every server of the cluster, a few per second: for
	// several instances behind one address.
	BroadcastCancels bool
}

// Server carries sessions. Its methods may be called from anywhere.
type Server struct {
	log      *slog.Logger
	metrics  *metrics.Metrics
	events   *events.Log
	gate     *admission.Gate
	settings atomic.Pointer[settings]
	updating sync.Mutex   // held by Update
	starts   chan *upkeep // to Run: of clusters that are new

	relays       relay.Engine
	cancels      cancelTable
	predecessors predecessors
	broadcasts   broadcasts
	orphans      orphans
	ends         sync.WaitGroup // of sessions that leave something to do behind
	lastID       atomic.Uint64

	leaving chan struct{} // closed once no session is to wait for a server any more
	leave   func()        // closes it

	mu       sync.Mutex
	sessions map[*session]struct{}
	draining *relay.Ending // set once every session is to end
	empty    chan struct{} // closed and renewed whenever the last session leaves
}

// New returns a Server of cfg. Nothing is watched and nobody is served before Run.
func New(cfg Config) *Server {
	s := &Server{
		log:      cfg.Logger,
		metrics:  cfg.Metrics,
		events:   cfg.Events,
		gate:     cfg.Gate,
		starts:   make(chan *upkeep),
		leaving:  make(chan struct{}),
		orphans:  newOrphans(),
		sessions: make(map[*session]struct{}),
		empty:    make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.leave = sync.OnceFunc(func() { close(s.leaving) })
	first, _ := s.newSettings(cfg, nil)
	s.settings.Store(first)
	return s
}

// Run watches the servers of every cluster, ends sessions whose server may no longer serve them, and tells which refusals the log
// leaves out, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	var upkeeps sync.WaitGroup
	defer upkeeps.Wait()
	upkeeps.Go(func() { s.tellUnlogged(ctx) })
	for _, c := range s.settings.Load().clusters {
		upkeeps.Go(func() { s.keepUp(ctx, c.upkeep) })
	}
	for {
		select {
		case u := <-s.starts:
			upkeeps.Go(func() { s.keepUp(ctx, u) })
		case <-ctx.Done():
			return
		}
	}
}

// Watched is closed when every server of every cluster was asked once, whatever it answered, or ctx has ended.
func (s *Server) Watched(ctx context.Context) <-chan struct{} {
	done, clusters := make(chan struct{}), s.settings.Load().clusters
	go func() {
		defer close(done)
		for _, c := range clusters {
			select {
			case <-c.monitor.FirstRound():
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// Snapshots returns what is known of the servers of each cluster, by the cluster's name.
func (s *Server) Snapshots() map[string]*backends.Snapshot {
	clusters := s.settings.Load().clusters
	list := make(map[string]*backends.Snapshot, len(clusters))
	for name, c := range clusters {
		list[name] = c.monitor.Snapshot()
	}
	return list
}

// ServeClient is a tlsfront.Handler. It returns when the session is logged in and relayed, or has ended.
func (s *Server) ServeClient(ctx context.Context, client *tlsfront.Client) {
	if client.Opening.Kind == wire.KindCancel {
		defer client.Visit.Leave()
		s.cancel(ctx, client)
		return
	}
	newSession(s, client).run(ctx)
}

// Sessions returns the number of sessions, those logging in included.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Close releases what is left once Run has returned and Drain has ended every session.
func (s *Server) Close() {
	s.ends.Wait()
	s.relays.Close()
}

// Drain waits until no session is left; logins that wait for a server are refused. When ctx ends before that, it ends those that are left, with an error that says
// the proxy is shutting down, and waits for them to be gone, which takes a few seconds at most. Listeners should be
// closed before.
func (s *Server) Drain(ctx context.Context) {
	s.leave()
	if s.wait(ctx.Done()) {
		return
	}
	ending := &relay.Ending{Error: errShutdown, Why: "shutdown"}
	s.mu.Lock()
	s.draining = ending
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.end(*ending)
	}
	s.wait(nil)
}

// wait returns true when no session is left, false when stop comes first.
func (s *Server) wait(stop <-chan struct{}) bool {
	for {
		s.mu.Lock()
		n, empty := len(s.sessions), s.empty
		s.mu.Unlock()
		if n == 0 {
			return true
		}
		select {
		case <-empty:
		case <-stop:
			return false
		}
	}
}

// add registers a session; one that comes while all are to end is told so.
func (s *Server) add(sess *session) {
	s.mu.Lock()
	s.sessions[sess] = struct{}{}
	ending := s.draining
	s.mu.Unlock()
	if ending != nil {
		sess.end(*ending)
	}
}

func (s *Server) remove(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	if len(s.sessions) == 0 {
		close(s.empty)
		s.empty = make(chan struct{})
	}
}

// snapshotSessions lists the sessions of now. The caller holds mu.
func (s *Server) snapshotSessions() []*session { return slices.Collect(maps.Keys(s.sessions)) }
