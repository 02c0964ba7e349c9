// Package admin answers, over HTTP, what those who run the program ask it: how its servers, sessions and certificates are, what
// happened lately, and whether it can serve. With the token it does what they ask for: take a server out of service, end a
// session, reload.
//
// Whoever reaches the listener may read, on loopback and unix sockets; elsewhere a client certificate or the token is wanted
// for that too. Nothing is changed without the token, whatever the listener. See access.go.
//
// Read admin.go for the list of pages, status.go for what is told as JSON, page.go for the same to look at, stream.go for
// events, actions.go for what can be done.
package admin

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/policy"
)

// Config is what the listener tells and does. It is read only once in use.
type Config struct {
	Sources
	Actions Actions
	// Metrics serves /metrics; nil is none.
	Metrics http.Handler
	// Events are what happened lately; nil is none.
	Events *events.Log
	// History is what the page draws; nil draws nothing.
	History *History
	// Token allows changes, and reading where that is not open to all. An empty one allows nothing.
	Token string
	// Local says that only this machine reaches the listener, so that everybody who does may read.
	Local bool
	// Profiles serves net/http/pprof under /debug/pprof/.
	Profiles bool
	// Logger gets a line for each action; nil is silent.
	Logger *slog.Logger
}

// Handler returns the listener's pages:
//
//	GET  /                    the status page
//	GET  /status              the same as JSON: type Status
//	GET  /sessions            the sessions, as JSON: type SessionList
//	GET  /events              what happened lately and what happens, as server-sent events: type events.Event
//	GET  /metrics             the program's metrics, for Prometheus
//	GET  /livez               200 while the program runs
//	GET  /readyz              200 while every cluster has a server that takes sessions
//	GET  /readyz/primary      200 while every cluster has a primary
//	GET  /readyz/replica      200 while every cluster has a replica
//	GET  /debug/pprof/        Go's profiles, with Config.Profiles
//	POST /drain               with the token: type Actions
//	POST /undrain
//	POST /accept
//	POST /forget
//	POST /sessions/{id}/end
//	POST /reload
//	POST /upgrade
//
// A page that is not ready is 503, as is every page of readiness while Sources.NotReady has something to say. Its text names each
// cluster and server with its role, and why it has none, to those who may read; load balancers that may not are told by the code
// alone.
func Handler(c Config) http.Handler {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	for path, target := range map[string]policy.Target{
		"GET /readyz": policy.TargetAny, "GET /readyz/primary": policy.TargetPrimary, "GET /readyz/replica": policy.TargetReplica,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { c.ready(w, r, target) })
	}
	read := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, c.reader(h)) }
	read("GET /{$}", c.page)
	read("GET /page.css", asset("page.css", "text/css; charset=utf-8"))
	read("GET /page.js", asset("page.js", "text/javascript; charset=utf-8"))
	read("GET /icon.svg", asset("icon.svg", "image/svg+xml"))
	read("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.Status()) })
	read("GET /sessions", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.sessionList()) })
	read("GET /events", newStream(c.Events).serve)
	if c.Metrics != nil {
		read("GET /metrics", c.Metrics.ServeHTTP)
	}
	c.addActions(mux)
	if c.Profiles {
		read("/debug/pprof/", pprof.Index)
		read("/debug/pprof/cmdline", pprof.Cmdline)
		read("/debug/pprof/profile", pprof.Profile)
		read("/debug/pprof/symbol", pprof.Symbol)
		read("/debug/pprof/trace", pprof.Trace)
	}
	return c.guard(mux)
}

// ready answers whether every cluster has a server for target.
func (c *Config) ready(w http.ResponseWriter, r *http.Request, target policy.Target) {
	status := http.StatusOK
	text := ""
	for name, snapshot := range c.Snapshots() {
		served := false
		for _, b := range snapshot.Backends {
			served = served || b.Weight > 0 && target.Serves(b.Role, policy.FallbackNever)
			text += name + " " + b.Name + " " + b.Role.String()
			if b.Detail != "" {
				text += ": " + b.Detail
			}
			text += "\n"
		}
		if !served {
			status = http.StatusServiceUnavailable
			text += name + ": no " + target.Noun() + "\n"
		}
	}
	if c.NotReady != nil {
		for _, sentence := range c.NotReady() {
			status = http.StatusServiceUnavailable
			text += sentence + "\n"
		}
	}
	if !c.mayRead(r) {
		text = http.StatusText(status) + "\n"
	}
	writeText(w, status, text)
}

// farewell is how long an answer may take that is under way when its listener is closed.
const farewell = 2 * time.Second

// Serve answers on ln until ctx ends, and closes ln; or until ln is closed, and then ends what is under way: streams at once.
// log gets what net/http has to complain of.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler, logger *slog.Logger) error {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	streams, endStreams := context.WithCancel(ctx)
	defer endStreams()
	server := http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: log.New(debugWriter{logger}, "", 0),
		BaseContext: func(net.Listener) context.Context { return streams },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(ln)
	if !errors.Is(err, net.ErrClosed) {
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}
	endStreams()
	last, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	if server.Shutdown(last) != nil {
		_ = server.Close()
	}
	return nil
}

// debugWriter logs what net/http complains of, which is clients that break off.
type debugWriter struct{ *slog.Logger }

// Write logs one line.
func (w debugWriter) Write(line []byte) (int, error) {
	w.Debug("admin listener", "err", string(line))
	return len(line), nil
}
