package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/internal/admin"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

func newServeCommand(configPath *string) *cobra.Command {
	var pidFile string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve clients until SIGTERM",
		Long: "Serve clients until SIGTERM or SIGINT, which lets sessions finish for drain_timeout; a second one ends them at once.\n" +
			"SIGHUP reads the configuration again, with the files it names, and changes to it; sessions stay. What is wrong with it\n" +
			"is logged, and then nothing changes.\n" +
			"SIGUSR2 starts the program's file anew, which may be another version by now. The new process serves new clients on the\n" +
			"same sockets, sessions stay with the old one for drain_timeout. If the new process fails, nothing changes.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := newProcess(pidFile)
			if err != nil {
				return err
			}
			if err := harden(); err != nil {
				return err
			}
			defer self.ends()
			load := func() (*config, diagnostics) { return loadConfig(*configPath) }
			cfg, diags := load()
			if err := reportDiagnostics(cmd.ErrOrStderr(), *configPath, diags); err != nil {
				return err
			}
			log := openLog(cmd.ErrOrStderr(), cfg.LogLevel, cfg.LogFormat)
			slog.SetDefault(log.Logger) // for what libraries print
			stop, release := notifyStops()
			defer release()
			return serve(stop, cfg, load, log, self, nil)
		},
	}
	cmd.Flags().StringVar(&pidFile, "pid-file", "", "file to write the number of the process to that serves new clients")
	return cmd
}

// reportDiagnostics prints what is wrong with a configuration, or odd about it, and returns an error if it is unusable.
func reportDiagnostics(w io.Writer, path string, diags diagnostics) error {
	if err := diags.write(w); err != nil {
		return err
	}
	if diags.hasErrors() {
		return notValid(path, diags)
	}
	return nil
}

// service is the program at work.
type service struct {
	load    func() (*config, diagnostics) // for a reload
	log     *logOutput
	server  *proxy.Server
	metrics *metrics.Metrics
	events  *events.Log
	gate    *admission.Gate
	history *admin.History
	started time.Time
	process *process
	manager serviceManager
	sockets sockets              // belongs to run
	current atomic.Pointer[plan] // replaced by run alone

	fronts   sync.WaitGroup // of listeners, and the connections that are not sessions
	hangups  chan os.Signal
	upgrades chan os.Signal
	wishes   chan wish
	broken   chan error    // of a socket that cannot be served on any more
	stopping chan struct{} // closed when nothing is to change any more
	parts    sync.WaitGroup
}

// serve runs the service of cfg until it is told to stop. load reads the configuration again. self is this process, nil for one
// that no other will replace. started, where it is not nil, is called when clients are being accepted. An error before that means
// that nothing was served.
func serve(
	stop stops, cfg *config, load func() (*config, diagnostics), log *logOutput, self *process, started func(*service),
) error {
	ignoreClientEnvironment()
	s := &service{
		load: load, log: log, metrics: metrics.New(buildVersion(), runtime.Version()), events: events.New(),
		gate: admission.New(cfg.Limits), history: &admin.History{}, started: time.Now(), sockets: make(sockets),
		process: self, manager: serviceManager{log.Logger, notifyTimeout},
		hangups: make(chan os.Signal, 1), upgrades: make(chan os.Signal, 1), wishes: make(chan wish), broken: make(chan error, 1),
		stopping: make(chan struct{}),
	}
	signal.Notify(s.hangups, syscall.SIGHUP) // before anybody can know that it runs
	defer signal.Stop(s.hangups)
	if self != nil {
		signal.Notify(s.upgrades, syscall.SIGUSR2)
		defer signal.Stop(s.upgrades)
	}
	first, err := s.prepare(cfg)
	if err != nil {
		return err
	}
	if err := self.unused(); err != nil {
		first.opened.close()
		return err
	}
	s.current.Store(first)
	s.server = proxy.New(s.proxyConfig(first))
	s.server.Replace(self.predecessors())
	s.metrics.Watch(metrics.Sources{
		Snapshots: s.server.Snapshots, Logins: s.server.Logins, Findings: s.findings, Holds: s.server.Holds, Standing: s.server.Standing,
		Limits:       s.limits,
		Certificates: func() []metrics.Certificate { return s.current.Load().certificates.metrics() },
	})
	return s.run(stop, started)
}

// ignoreClientEnvironment removes what steers PostgreSQL clients from the environment. The monitor is one, and logs in as the
// configuration says. The file may still name such a variable.
func ignoreClientEnvironment() {
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGREPLICAPROXY_") {
			ignoredEnvironment.Store(name, value)
			_ = os.Unsetenv(name) // fails for names that os.Environ does not return
		}
	}
}

// run serves in this order: watch the servers, accept once each was asked, change when that is wished, drain when told to
// stop, end what is left.
func (s *service) run(stop stops, started func(*service)) error {
	// Sessions and monitors outlive the wish to drain, and end with this.
	ctx, end := context.WithCancel(stop.now)
	defer func() {
		end()
		s.parts.Wait()
		s.server.Close()
	}()
	s.begin(ctx)
	watched, unwatch := context.WithCancel(ctx)
	defer unwatch()
	s.parts.Go(func() { s.manager.watch(watched, func() { s.server.Sessions() }) })
	replaced, failed := false, error(nil)
	select {
	case <-s.server.Watched(ctx): // without this, the first clients would find no server known
		replaced, failed = s.accept(ctx, stop, started)
	case <-stop.drain:
	}
	if replaced { // to systemd, the service is the other process
		unwatch()
	} else {
		s.manager.stopping(s.current.Load().cfg.DrainTimeout)
	}
	close(s.stopping)
	s.sockets.close()
	s.drain(stop)
	return failed
}

// begin starts all that clients need not wait for.
func (s *service) begin(ctx context.Context) {
	s.parts.Go(func() { s.server.Run(ctx) })
	s.parts.Go(func() { keepMemory(ctx) })
	first := s.current.Load()
	s.open(first)
	first.certificates.start(ctx, &s.parts)
	s.serveAdmin(ctx, first)
	drawn := s.adminSources()
	drawn.Sessions = nil // nothing is drawn of them
	s.parts.Go(func() { s.history.Run(ctx, drawn.Status) })
	s.parts.Go(func() { s.followCertificates(ctx) })
}

// accept serves clients until that is to end, and returns true when another process does from here on.
func (s *service) accept(ctx context.Context, stop stops, started func(*service)) (replaced bool, err error) {
	changes, noMore := context.WithCancel(ctx)
	s.parts.Go(func() {
		defer noMore()
		select {
		case <-stop.drain:
		case <-ctx.Done():
		}
	})
	first := s.current.Load()
	s.serveClients(ctx, first)
	if err := s.process.serves(s.manager); err != nil {
		return false, err
	}
	s.tell(events.Info, "serving %v", first.cfg)
	if started != nil {
		started(s)
	}
	return s.follow(ctx, changes)
}

// follow changes the configuration, or the process, whenever that is wished, until changes ends or a listener breaks. It returns
// true when another process has taken over.
func (s *service) follow(ctx, changes context.Context) (replaced bool, err error) {
	for {
		select {
		case <-s.hangups:
			s.manager.reloading()
			_, _ = s.change(ctx, changes) // what is wrong is in the log
			s.manager.ready()
		case <-s.upgrades:
			if _, err := s.upgrade(ctx, changes); err == nil {
				return true, nil
			}
		case w := <-s.wishes:
			if !w.upgrade {
				w.answer(s.change(ctx, changes))
				continue
			}
			text, err := s.upgrade(ctx, changes)
			if w.answer(text, err); err == nil {
				return true, nil
			}
		case err := <-s.broken:
			return false, err
		case <-changes.Done():
			return false, nil
		}
	}
}

// open takes the sockets over that a plan has opened.
func (s *service) open(p *plan) {
	maps.Copy(s.sockets, p.opened)
	p.opened = nil
}

// serveClients serves clients by a plan on all of its listeners, those that were served before included.
func (s *service) serveClients(ctx context.Context, p *plan) {
	for i, key := range keys(p.cfg.Listeners) {
		front := s.front(p, p.cfg.Listeners[i])
		s.serveOn("listening", s.sockets[key], func(ln net.Listener) error {
			return front.Serve(ctx, ln, s.server.ServeClient)
		})
	}
}

// serveOn lets a socket to a server, after the one before it. The first is logged, unless the message is empty.
func (s *service) serveOn(message string, socket *socket, serve func(net.Listener) error) {
	if socket.lease == nil && message != "" {
		s.log.Info(message, "address", socket.Addr().String())
	}
	lease := socket.let()
	s.fronts.Go(func() {
		err := serve(lease)
		if err == nil && !lease.closed.Load() {
			err = errors.New("listener closed unexpectedly")
		}
		if err != nil {
			select {
			case s.broken <- err:
			default: // one is enough
			}
		}
	})
}

// front is how clients of a listener are treated.
func (s *service) front(p *plan, l listenerConfig) *tlsfront.Config {
	return &tlsfront.Config{
		TLS:                p.certificates.tls(p.cfg.MinVersion),
		Challenges:         p.certificates.challengeTLS(),
		ClientCertificates: p.certificates.clients,
		PlaintextAllowed:   l.TLSOptional, ProxyProtocolFrom: l.ProxyProtocolFrom,
		LoginTimeout: p.cfg.LoginTimeout,
		Gate:         s.gate,
		Logger:       s.log.Logger,
		Observe: func(n tlsfront.Negotiation) {
			s.metrics.Handshake(string(n.Outcome), tlsfront.TLSName(n.TLS), n.Took)
		},
	}
}

// drain lets sessions finish for the drain timeout, then ends them.
func (s *service) drain(stop stops) {
	timeout := s.current.Load().cfg.DrainTimeout
	n := s.server.Sessions()
	s.tell(events.Warning, "stopping, with %s left", count(n, "session"))
	if n > 0 {
		s.log.Info("draining", "sessions", n, "timeout", timeout.String())
	}
	ctx, cancel := context.WithTimeout(stop.now, timeout)
	defer cancel()
	opened := make(chan struct{})
	s.parts.Go(func() {
		s.fronts.Wait()
		close(opened)
	})
	select {
	case <-opened: // who was accepted has become a session or has gone
	case <-ctx.Done():
	}
	s.server.Drain(ctx)
	s.log.Info("stopped")
}
