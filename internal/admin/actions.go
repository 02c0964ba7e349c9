package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/replicon/pgreplicaproxy/internal/events"
)

// Actions are what an operator can have done. Each returns an error that is fit for the operator. One that is nil is not to be
// had, and answers 501.
type Actions struct {
	// Drain takes a server out of service, or, with false, back into it: POST /drain and /undrain, with the parameters
	// cluster, which may be left out while there is one only, and backend.
	Drain func(cluster, backend string, drained bool) error
	// Accept makes a server the primary in spite of what speaks against it: POST /accept, with cluster and backend.
	Accept func(cluster, backend string) error
	// Forget gives up what is remembered of a cluster's past: POST /forget, with cluster.
	Forget func(cluster string) error
	// EndSession ends one session: POST /sessions/{id}/end.
	EndSession func(id uint64) error
	// Reload reads the configuration again. The text is what there is to say about it, errors or warnings: POST /reload.
	Reload func(ctx context.Context) (text string, err error)
	// Upgrade replaces the process by a new one, whose number is in the text: POST /upgrade.
	Upgrade func(ctx context.Context) (text string, err error)
}

// mostForm bounds the body of an action.
const mostForm = 16 << 10

// addActions adds the pages that change something.
func (c *Config) addActions(mux *http.ServeMux) {
	change := func(path string, available bool, do func(r *http.Request) (string, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case !c.mayChange(r):
				c.refuse(w, "the token")
			case !available:
				writeText(w, http.StatusNotImplemented, "this program cannot do that\n")
			default:
				c.act(w, r, do)
			}
		})
	}
	a := c.Actions
	change("/drain", a.Drain != nil, func(r *http.Request) (string, error) { return c.drain(r, true) })
	change("/undrain", a.Drain != nil, func(r *http.Request) (string, error) { return c.drain(r, false) })
	change("/accept", a.Accept != nil, func(r *http.Request) (string, error) {
		cluster, backend := c.cluster(r), r.PostFormValue("backend")
		return "accepted " + backend + " as the primary of cluster " + cluster, a.Accept(cluster, backend)
	})
	change("/forget", a.Forget != nil, func(r *http.Request) (string, error) {
		cluster := c.cluster(r)
		return "forgot the past of cluster " + cluster, a.Forget(cluster)
	})
	change("/sessions/{id}/end", a.EndSession != nil, func(r *http.Request) (string, error) {
		id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
		if err != nil {
			return "", err
		}
		return "ended session " + r.PathValue("id"), a.EndSession(id)
	})
	change("/upgrade", a.Upgrade != nil, func(r *http.Request) (string, error) { return a.Upgrade(r.Context()) })
	change("/reload", a.Reload != nil, func(r *http.Request) (string, error) {
		text, err := a.Reload(r.Context())
		if err != nil {
			return "", errors.New(strings.TrimSpace(text + "\n" + err.Error()))
		}
		return strings.TrimSpace(text + "\nconfiguration reloaded"), nil
	})
}

// act does what was asked for and tells the client, the log and the list of events.
func (c *Config) act(w http.ResponseWriter, r *http.Request, do func(*http.Request) (string, error)) {
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if err := r.ParseForm(); err != nil {
		writeText(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	text, err := do(r)
	if err != nil {
		c.Logger.LogAttrs(r.Context(), slog.LevelWarn, "operator refused", slog.String("action", r.URL.Path), slog.String("err", err.Error()))
		writeText(w, http.StatusConflict, err.Error()+"\n")
		return
	}
	c.Logger.LogAttrs(r.Context(), slog.LevelInfo, "operator", slog.String("action", r.URL.Path), slog.String("done", text))
	if r.URL.Path != "/reload" && r.URL.Path != "/upgrade" { // which tell of themselves
		c.Events.Add(events.Event{
			Level: events.Info, Kind: events.Operator, Cluster: r.PostFormValue("cluster"), Backend: r.PostFormValue("backend"),
			Text: "operator " + text,
		})
	}
	writeText(w, http.StatusOK, text+"\n")
}

func (c *Config) drain(r *http.Request, drained bool) (string, error) {
	cluster, backend := c.cluster(r), r.PostFormValue("backend")
	done := "took " + backend + " out of service"
	if !drained {
		done = "took " + backend + " back into service"
	}
	return done, c.Actions.Drain(cluster, backend, drained)
}

// cluster is the cluster that a request names, or the only one.
func (c *Config) cluster(r *http.Request) string {
	name := r.PostFormValue("cluster")
	if name == "" {
		if all := c.Snapshots(); len(all) == 1 {
			for only := range all {
				return only
			}
		}
	}
	return name
}
