// Package admin answers, over HTTP, what those who run the program ask it: whether it lives, whether it can serve, and, where
// that is switched on, Go's profiles of it.
//
// It changes nothing and knows no secrets. It has no access rules of its own, so its listener belongs on loopback or a unix
// socket; the configuration allows no other.
package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// Config is what the listener tells.
type Config struct {
	// Snapshots returns what is known of each cluster's servers, by the cluster's name.
	Snapshots func() map[string]*backends.Snapshot
	// Metrics serves /metrics; nil is none.
	Metrics http.Handler
	// Profiles serves net/http/pprof under /debug/pprof/.
	Profiles bool
}

// Handler returns the listener's pages:
//
//	/livez           200 while the program runs
//	/readyz          200 while every cluster has a server that takes sessions
//	/readyz/primary  200 while every cluster has a primary
//	/readyz/replica  200 while every cluster has a replica
//	/metrics         the program's metrics, for Prometheus
//	/debug/pprof/    Go's profiles, with Config.Profiles
//
// A page that is not ready is 503. Its text names each cluster and server with its role, and why it has none.
func Handler(c Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	for path, target := range map[string]policy.Target{
		"GET /readyz": policy.TargetAny, "GET /readyz/primary": policy.TargetPrimary, "GET /readyz/replica": policy.TargetReplica,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { c.ready(w, target) })
	}
	if c.Metrics != nil {
		mux.Handle("GET /metrics", c.Metrics)
	}
	if c.Profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// ready answers whether every cluster has a server for target.
func (c Config) ready(w http.ResponseWriter, target policy.Target) {
	status := http.StatusOK
	text := ""
	for name, snapshot := range c.Snapshots() {
		served := false
		for _, b := range snapshot.Backends {
			served = served || b.Weight > 0 && target.Serves(b.Role, policy.FallbackNever)
			text += fmt.Sprintf("%s %s %s", name, b.Name, b.Role)
			if b.Detail != "" {
				text += ": " + b.Detail
			}
			text += "\n"
		}
		if !served {
			status = http.StatusServiceUnavailable
			text += fmt.Sprintf("%s: no %s\n", name, target.Noun())
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

// Serve answers on ln until ctx ends, and closes ln.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler) error {
	server := http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
