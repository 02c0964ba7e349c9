package proxy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/wire"
)

// What an operator may ask of a Server at work is in this file.

// SessionInfo is one session at one moment.
type SessionInfo struct {
	ID uint64
	// Client is the client's address.
	Client         string
	User, Database string
	// Cluster and Backend are empty as long as the session has none.
	Cluster, Backend string
	// Route is what the route that took it is called.
	Route string
	// Since is when its startup packet came.
	Since time.Time
	// ToServer and ToClient count bytes of the protocol since the login.
	ToServer, ToClient uint64
	State              SessionState
}

// SessionState is what a session does.
type SessionState string

// The states.
const (
	// SessionLogin is a session before its first ReadyForQuery.
	SessionLogin SessionState = "login"
	// SessionIdle waits for its client, outside a transaction.
	SessionIdle SessionState = "idle"
	// SessionActive has a request without its answer, or a transaction.
	SessionActive SessionState = "active"
	// SessionEnding is to end, and may still have something to finish.
	SessionEnding SessionState = "ending"
)

// List returns the sessions of now, the oldest first.
func (s *Server) List() []SessionInfo {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	list := make([]SessionInfo, len(sessions))
	for i, sess := range sessions {
		list[i] = sess.info()
	}
	slices.SortFunc(list, func(a, b SessionInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

func (s *session) info() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := SessionInfo{
		ID: s.id, Client: s.address, Since: s.started, State: SessionLogin,
		User: s.request.User, Database: s.request.Database, Cluster: s.decision.Cluster, Route: s.route,
	}
	if s.leg != nil {
		info.Backend = s.target.Name
	}
	if s.relay != nil {
		stats := s.relay.Stats()
		info.ToServer, info.ToClient, info.State = stats.ToServer, stats.ToClient, SessionIdle
		if s.relay.Busy() {
			info.State = SessionActive
		}
	}
	if s.ending != nil {
		info.State = SessionEnding
	}
	return info
}

// EndSession ends one session at once, as pg_terminate_backend does. An error says that there is no such session.
func (s *Server) EndSession(id uint64) error {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	for _, sess := range sessions {
		if sess.id == id {
			sess.end(relay.Ending{Error: errAdministrator, Why: "administrator"})
			return nil
		}
	}
	return fmt.Errorf("no session has the number %d", id)
}

// DrainBackend takes a server out of service, or back into it: it gets no new sessions, and those on it end once they are idle,
// at the latest after the drain timeout; a login that is bound to it comes to its end first. Taken back it gets new sessions; what
// has been asked to end ends. An error says that there is no such server.
func (s *Server) DrainBackend(cluster, backend string, drained bool) error {
	c, err := s.clusterNamed(cluster)
	if err != nil {
		return err
	}
	if _, ok := c.monitor.Snapshot().State(backend); !ok {
		return fmt.Errorf("cluster %q has no backend %q", cluster, backend)
	}
	c.standings.drain(backend, drained)
	s.log.Info("backend taken "+map[bool]string{true: "out of service", false: "back into service"}[drained],
		"cluster", cluster, "backend", backend)
	if drained {
		s.judge(c.upkeep, func(on backends.Target, _ *policy.Decision) (fate, *wire.ErrorResponse) {
			if on.Name != backend {
				return stay, nil
			}
			return drain, errDraining(backend)
		})
	}
	return nil
}

// Standing tells whether an operator has taken a server out of service, and whether it is tried after all others because clients
// have failed to reach it.
func (s *Server) Standing(cluster, backend string) (drained, ejected bool) {
	if c := s.settings.Load().clusters[cluster]; c != nil {
		return c.standings.how(backend, time.Now())
	}
	return false, false
}
