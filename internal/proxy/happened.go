package proxy

import (
	"fmt"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/policy"
)

// What happens to servers and to many sessions at a time is told to Config.Events from here.

// changed tells of a server that changed, as its monitor does in the log.
func (s *Server) changed(c backends.Change) {
	s.metrics.Changed(c.Cluster, c.Is.Target.Name)
	s.events.Add(events.Event{
		Time: c.Time, Level: levelOf(c.Is), Kind: events.Server, Cluster: c.Cluster, Backend: c.Is.Target.Name, Text: changeText(c),
	})
}

// changeText says what a server is now, and what it was: "db2 is primary (was replica)", "db1 is down: connection refused (was
// primary)".
func changeText(c backends.Change) string {
	if c.Is.Role == c.Was.Role && c.Is.Status == c.Was.Status {
		if c.Is.Lagging {
			return c.Is.Target.Name + " lags too far behind"
		}
		return c.Is.Target.Name + " lags no more"
	}
	is := c.Is.Role.String()
	if c.Is.Status != backends.Up && c.Is.Role == policy.Unknown {
		is = c.Is.Status.String()
	} else if c.Is.Status != backends.Up {
		is += ", " + c.Is.Status.String()
	}
	text := c.Is.Target.Name + " is " + is
	if c.Is.Detail != "" {
		text += ": " + c.Is.Detail
	}
	if c.Was.Role != c.Is.Role {
		text += " (was " + c.Was.Role.String() + ")"
	}
	return text
}

func levelOf(st backends.State) events.Level {
	switch st.Status {
	case backends.Up, backends.Pending:
		if st.Lagging {
			return events.Warning
		}
		return events.Info
	case backends.Conflict, backends.Quarantined, backends.Foreign, backends.Down, backends.Silent:
		return events.Error
	default:
		return events.Warning
	}
}

// departure is what one verdict does to the sessions of one server.
type departure struct {
	backend string
	fate    fate
}

// tellDepartures tells of sessions that were ended, by how many they are.
func (s *Server) tellDepartures(cluster string, departures map[departure]int) {
	for d, n := range departures {
		e := events.Event{Level: events.Warning, Kind: events.Sessions, Cluster: cluster, Backend: d.backend}
		sessions, ending := "sessions", "end once they are idle"
		if n == 1 {
			sessions, ending = "session", "ends once it is idle"
		}
		e.Text = fmt.Sprintf("%d %s on %s ended", n, sessions, d.backend)
		if d.fate == drain {
			e.Level, e.Text = events.Info, fmt.Sprintf("%d %s on %s %s", n, sessions, d.backend, ending)
		}
		s.events.Add(e)
	}
}
