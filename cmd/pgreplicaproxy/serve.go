package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

func newServeCommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve clients until SIGTERM",
		Long: "Serve clients until SIGTERM or SIGINT, which lets sessions finish for drain_timeout; a second one ends them at once.\n" +
			"SIGHUP reads the files with certificates and secrets again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, diags := loadConfig(*configPath)
			if err := reportDiagnostics(cmd.ErrOrStderr(), *configPath, diags); err != nil {
				return err
			}
			log := newLogger(cmd.ErrOrStderr(), cfg.LogLevel, cfg.LogFormat)
			slog.SetDefault(log) // for what libraries print
			stop, release := notifyStops()
			defer release()
			return serve(stop, cfg, log, func(*service) { serviceManager{log}.ready() })
		},
	}
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
	cfg          *config
	log          *slog.Logger
	server       *proxy.Server
	metrics      *metrics.Metrics
	events       *events.Log
	started      time.Time
	certificates certificateSource
	secrets      []*backends.SecretsFile // to be read again at SIGHUP
	listeners    []net.Listener
	admin        net.Listener // nil for none
	hangups      chan os.Signal
}

// serve runs the service of cfg until it is told to stop. started, where it is not nil, is called when clients are being
// accepted. An error before that means that nothing was served.
func serve(stop stops, cfg *config, log *slog.Logger, started func(*service)) error {
	limitGarbage()
	ignoreClientEnvironment() // the configuration has taken from it what it wants
	certificates, err := openCertificates(cfg, log)
	if err != nil {
		return err
	}
	s := &service{
		cfg: cfg, log: log, certificates: certificates, hangups: make(chan os.Signal, 1),
		metrics: metrics.New(buildVersion(), runtime.Version()), events: events.New(), started: time.Now(),
	}
	signal.Notify(s.hangups, syscall.SIGHUP) // before anybody can know that it runs
	defer signal.Stop(s.hangups)
	clusters, err := s.clusters()
	if err != nil {
		return err
	}
	s.server = proxy.New(proxy.Config{
		Clusters: clusters, Routes: cfg.Routes, DrainTimeout: cfg.DrainTimeout, Leaves: certificates.leafHashes,
		Logger: log, Metrics: s.metrics, Events: s.events,
	})
	s.metrics.Watch(metrics.Sources{Snapshots: s.server.Snapshots, Logins: s.server.Logins, Findings: s.findings})
	if err := s.listen(); err != nil {
		return err
	}
	return s.run(stop, started)
}

// limitGarbage makes Go collect garbage once the heap has grown by half, unless GOGC says otherwise. What a login leaves
// behind is many times what an idle session needs, and the heap of an idle program is mostly room for it.
func limitGarbage() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}

// ignoreClientEnvironment removes what steers PostgreSQL clients from the environment. The monitor is one, and logs in as the
// configuration says.
func ignoreClientEnvironment() {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGREPLICAPROXY_") {
			_ = os.Unsetenv(name) // fails for names that os.Environ does not return
		}
	}
}

// listen binds every address, or none.
func (s *service) listen() error {
	for _, l := range s.cfg.Listeners {
		ln, err := listen(l)
		if err != nil {
			s.closeListeners()
			return err
		}
		s.listeners = append(s.listeners, ln)
	}
	err := s.listenAdmin()
	if err != nil {
		s.closeListeners()
	}
	return err
}

func (s *service) closeListeners() {
	for _, ln := range s.listeners {
		_ = ln.Close()
	}
}

// run serves in this order: watch the servers, accept once each was asked, drain when told to stop, end what is left.
func (s *service) run(stop stops, started func(*service)) error {
	// Sessions and monitors outlive the wish to drain, and end with this.
	ctx, end := context.WithCancel(stop.now)
	var parts sync.WaitGroup
	defer func() {
		end()
		parts.Wait()
		s.server.Close()
	}()
	parts.Go(func() { s.server.Run(ctx) })
	parts.Go(func() { s.reloadOnHangup(ctx) })
	if s.admin != nil {
		parts.Go(func() { s.serveAdmin(ctx) })
	}

	broken := make(chan error, len(s.listeners))
	select {
	case <-s.server.Watched(ctx): // without this, the first clients would find no server known
		for i := range s.listeners {
			parts.Go(func() { broken <- s.accept(ctx, i) })
		}
		if started != nil {
			started(s)
		}
	case <-stop.drain:
	}
	var failed error
	select {
	case <-stop.drain:
	case failed = <-broken:
		if failed == nil {
			failed = errors.New("listener closed unexpectedly")
		}
	}
	s.closeListeners()
	s.drain(stop)
	return failed
}

// drain lets sessions finish for the drain timeout, then ends them.
func (s *service) drain(stop stops) {
	if n := s.server.Sessions(); n > 0 {
		s.log.Info("draining", "sessions", n, "timeout", s.cfg.DrainTimeout.String())
	}
	ctx, cancel := context.WithTimeout(stop.now, s.cfg.DrainTimeout)
	defer cancel()
	s.server.Drain(ctx)
	s.log.Info("stopped")
}

// accept serves one listener until it is closed.
func (s *service) accept(ctx context.Context, i int) error {
	l, ln := s.cfg.Listeners[i], s.listeners[i]
	front := tlsfront.Config{
		TLS:              tlsfront.ServerConfig(s.certificates.get, s.cfg.MinVersion),
		PlaintextAllowed: l.TLSOptional, ProxyProtocolFrom: l.ProxyProtocolFrom,
		LoginTimeout: s.cfg.LoginTimeout,
		Logger:       s.log,
		Observe: func(n tlsfront.Negotiation) {
			s.metrics.Handshake(string(n.Outcome), tlsfront.TLSName(n.TLS), n.Took)
		},
	}
	s.log.Info("listening", "address", ln.Addr().String())
	return front.Serve(ctx, ln, s.server.ServeClient)
}

// reloadOnHangup reads the files with certificates and secrets again at every SIGHUP.
func (s *service) reloadOnHangup(ctx context.Context) {
	for {
		select {
		case <-s.hangups:
			s.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload reads files again. What cannot be read leaves the old one in use.
func (s *service) reload() {
	if err := s.certificates.reload(); err != nil {
		s.log.Error("certificates not reloaded, the old ones stay", "err", err)
	} else {
		s.log.Info("certificates reloaded")
		s.certificates.warn(s.log)
	}
	for _, f := range s.secrets {
		if err := f.Reload(); err != nil {
			s.log.Error("secrets not reloaded, the old ones stay", "err", err)
			continue
		}
		s.log.Info("secrets reloaded")
	}
}
