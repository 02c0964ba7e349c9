package admin

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/events"
)

//go:embed page
var pageFiles embed.FS

// pageEvents is how many events the page shows.
const pageEvents = 50

var pageTemplate = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"age": Age, "clock": func(t time.Time) string { return t.UTC().Format("15:04:05") },
	"iso": func(t time.Time) string { return t.UTC().Format(time.RFC3339) }, "join": strings.Join, "plural": plural,
	"health": health, "mark": mark,
}).ParseFS(pageFiles, "page/page.html"))

// view is what the page is made of.
type view struct {
	Status
	Events []events.Event // the newest first
	Last   uint64         // the newest event's ID
	c      *Config
}

// page answers with the status page. It is complete without scripts; page.js asks for it again and takes the new parts over.
func (c *Config) page(w http.ResponseWriter, _ *http.Request) {
	v := view{Status: c.Status(), c: c}
	v.Events, _ = c.Events.Since(0)
	slices.Reverse(v.Events)
	v.Events = v.Events[:min(pageEvents, len(v.Events))]
	if len(v.Events) > 0 {
		v.Last = v.Events[0].ID
	}
	var html bytes.Buffer
	if err := pageTemplate.Execute(&html, v); err != nil {
		c.Logger.Error("status page", "err", err)
		writeText(w, http.StatusInternalServerError, "the page could not be made: the log says why\n")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(html.Bytes())
}

// asset serves one file of the page.
func asset(name, contentType string) http.HandlerFunc {
	content, err := pageFiles.ReadFile("page/" + name)
	if err != nil {
		panic(err) // it is part of the program
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(content)
	}
}

// RoutesOf lists the routes that lead to a cluster.
func (v view) RoutesOf(cluster string) []Route {
	var list []Route
	for _, r := range v.Routes {
		if r.Cluster == cluster {
			list = append(list, r)
		}
	}
	return list
}

// Uptime is how long the program runs.
func (s Status) Uptime() string { return Age(s.Time, s.Started) }

// Graph draws how a server was over the last minutes.
func (v view) Graph(cluster, server string) graph { return newGraph(v.c.History.of(cluster, server)) }

// Summary says of a cluster in one line what matters most.
func (c Cluster) Summary() string {
	primary, replicas, sessions, away := "no primary", 0, 0, 0
	for _, s := range c.Servers {
		switch s.Role {
		case "primary":
			primary = s.Name + " is primary"
		case "replica":
			replicas++
		default:
			away++
		}
		sessions += s.Sessions
	}
	text := primary + ", " + plural(replicas, "replica")
	if away > 0 {
		text += ", " + plural(away, "server") + " out"
	}
	return text + ", " + plural(sessions, "session")
}

// health is "bad", "doubtful" or "good", for the colour of a cluster.
func health(c Cluster) string {
	primary, all := false, true
	for _, s := range c.Servers {
		primary = primary || s.Role == "primary"
		all = all && s.Role != "unknown" && !s.Lagging && !s.Access.wrong()
	}
	switch {
	case c.Conflict || c.StateFile != "" || !primary:
		return "bad"
	case !all:
		return "doubtful"
	default:
		return "good"
	}
}

// wrong reports whether there is something to mend.
func (a *Access) wrong() bool { return a != nil && (a.Binding == "broken" || len(a.Findings) > 0) }

// mark is a sign for the level of an event, for those who do not see its colour.
func mark(l events.Level) string {
	switch l {
	case events.Error:
		return "✕"
	case events.Warning:
		return "!"
	default:
		return "·"
	}
}

// Expiry says how long a certificate lasts.
func (c Certificate) Expiry() string {
	switch left := time.Until(orZero(c.NotAfter)); {
	case c.NotAfter == nil:
		return "not obtained yet"
	case left < 0:
		return "expired"
	case left < 48*time.Hour:
		return "expires in " + span(left)
	default:
		return fmt.Sprintf("expires in %d days", int(left.Hours()/24))
	}
}

// Bad reports whether somebody has to see to the certificate.
func (c Certificate) Bad() bool { return c.ExpiresSoon || c.LastError != "" || c.NotAfter == nil }

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// Age is the time from since to now in one unit; empty for the zero time.
func Age(now, since time.Time) string {
	if since.IsZero() {
		return ""
	}
	return span(now.Sub(since))
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(max(d, 0).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}

// ByteSize writes a number of bytes with three digits at most.
func ByteSize(n float64) string {
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if n < 999.5 {
			if n < 9.95 && unit != "B" {
				return fmt.Sprintf("%.1f %s", n, unit)
			}
			return fmt.Sprintf("%.0f %s", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TB", n)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Release is the server's version without its packager's.
func (s Server) Release() string {
	release, _, _ := strings.Cut(s.Version, " ")
	return release
}

// Lag says how far a replica is behind; empty where there is nothing to say.
func (s Server) Lag() string {
	if s.LagBytes == nil {
		return ""
	}
	text := ByteSize(float64(*s.LagBytes))
	if s.LagSeconds != nil && *s.LagSeconds >= 1 {
		text += ", " + span(time.Duration(*s.LagSeconds*float64(time.Second)))
	}
	return text
}
