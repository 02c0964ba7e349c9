package proxy

import (
	"maps"
	"time"
)

// PlacementInfo is how the sessions of one cluster are being placed, at one moment.
type PlacementInfo struct {
	// Waiting is the number of sessions that wait for a server; Held counts by outcome those that have waited.
	Waiting int
	Held    map[HoldOutcome]uint64
	// Servers are by name those that sessions were placed on, or that the monitor knows.
	Servers map[string]StandingInfo
}

// StandingInfo is what the proxy itself knows of one server.
type StandingInfo struct {
	// Sessions are those placed there, from the decision to their end; Dials those of them that are on their way, which are
	// counted only where their number is bounded.
	Sessions, Dials int
	// Cold is the part of its weight that does not count yet because the server has come back a moment ago.
	Cold float64
	// Ejected is a server that is tried last because it has failed clients; Ejections counts how often that began.
	Ejected   bool
	Ejections uint64
}

// Placements returns the placement of now for each cluster, by its name.
func (s *Server) Placements() map[string]PlacementInfo {
	clusters := s.settings.Load().clusters
	list := make(map[string]PlacementInfo, len(clusters))
	for name, c := range clusters {
		list[name] = c.placement()
	}
	return list
}

func (c *cluster) placement() PlacementInfo {
	info := PlacementInfo{Servers: make(map[string]StandingInfo)}
	c.waiting.mu.Lock()
	info.Waiting, info.Held = c.waiting.total, maps.Clone(c.waiting.outcomes)
	c.waiting.mu.Unlock()
	now := time.Now()
	c.standings.mu.Lock()
	defer c.standings.mu.Unlock()
	for name, st := range c.standings.byName {
		info.Servers[name] = StandingInfo{
			Sessions: st.sessions, Dials: len(st.dials), Cold: st.cold(c.Placement.SlowStart, now),
			Ejected: now.Before(st.outlier.until), Ejections: st.outlier.total,
		}
	}
	return info
}
