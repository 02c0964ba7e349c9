package proxy

import (
	"errors"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Reason says in one word why a login did not become a session. It is the one list of them: each refusal in refusal.go has
// one, the metric pgreplicaproxy_refusals_total is told by it, and docs/operations.md explains it.
type Reason string

// The reasons.
const (
	ReasonInternal       Reason = "internal"        // nothing below: the log says more
	ReasonProtocol       Reason = "protocol"        // the client broke the protocol
	ReasonNoRoute        Reason = "no_route"        // no route takes the request
	ReasonAccess         Reason = "access"          // no access rule lets it in
	ReasonLimit          Reason = "limit"           // a limit was met
	ReasonThrottled      Reason = "throttled"       // too many failed logins before it
	ReasonMonitorUser    Reason = "monitor_user"    // it asked for the monitor's role
	ReasonNoServer       Reason = "no_server"       // no server has the role asked for
	ReasonCrowded        Reason = "crowded"         // too many wait for a server already
	ReasonUnreachable    Reason = "unreachable"     // every server that has it failed
	ReasonTimeout        Reason = "timeout"         // login_timeout
	ReasonMethod         Reason = "method"          // the server asks for an authentication that is not allowed
	ReasonChannelBinding Reason = "channel_binding" // the client's channel binding cannot reach the server
	ReasonPassword       Reason = "password"        // the client could not prove who it is
	ReasonSecret         Reason = "secret"          // the role's secret could not be read, or has just changed
	ReasonRole           Reason = "role"            // the server changed its role meanwhile
	ReasonEnded          Reason = "ended"           // the program wanted the session to end
	ReasonServer         Reason = "server"          // the server's own refusal, passed on
	ReasonClientGone     Reason = "client_gone"     // the client closed its connection first
)

// refusal is an error that a client may read, with the reason it is counted by.
type refusal struct {
	reason Reason
	*wire.ErrorResponse
}

func refuse(reason Reason, response *wire.ErrorResponse) error { return &refusal{reason, response} }

// Unwrap returns what the client is told.
func (r *refusal) Unwrap() error { return r.ErrorResponse }

// reasonOf returns why a login ended with err.
func reasonOf(err error) Reason {
	var refused *refusal
	var passed *serverError
	switch {
	case errors.As(err, &passed) && passed.sqlState == wire.InvalidPassword:
		return ReasonPassword
	case errors.As(err, &passed):
		return ReasonServer
	case errors.Is(err, errClientGone):
		return ReasonClientGone
	case errors.As(err, &refused):
		return refused.reason
	default:
		return ReasonInternal
	}
}

// opened counts a session that is logged in. The caller holds mu.
func (s *session) opened() {
	role := s.decision.Target.String()
	s.counters = s.server.metrics.Session(s.decision.Cluster, s.route, s.target.Name, role)
	s.counters.Opened()
	mode := "relay"
	if s.cluster.Passthrough != nil {
		mode = "scram_passthrough"
	}
	s.server.metrics.LoggedIn(s.decision.Cluster, mode, time.Since(s.started))
}

// closed counts the end of a session that was opened.
func (s *session) closed(r relay.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(r.Stats)
	cause := r.Cause.Word()
	if r.Cause == relay.Ended && s.ending != nil && s.ending.Why != "" {
		cause = s.ending.Why
	}
	s.counters.Closed(cause)
	s.over = true
}

// count adds what was relayed since the last time. The caller holds mu.
func (s *session) count(now relay.Stats) {
	s.counters.Relayed(now.ToServer-s.counted.ToServer, now.ToClient-s.counted.ToClient)
	s.counted = now
}

// Count brings the metrics of relayed bytes up to date, which otherwise count a session at its end.
func (s *Server) Count() {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.mu.Lock()
		if sess.relay != nil && !sess.over {
			sess.count(sess.relay.Stats())
		}
		sess.mu.Unlock()
	}
}

// Holds returns the sessions that wait for a server and the waits that have ended, by cluster.
func (s *Server) Holds() map[string]metrics.Holds {
	list := make(map[string]metrics.Holds)
	for name, c := range s.settings.Load().clusters {
		holds := metrics.Holds{Waiting: c.waiting.size(), Ended: make(map[string]uint64)}
		for outcome, n := range c.waiting.ended() {
			holds.Ended[string(outcome)] = n
		}
		list[name] = holds
	}
	return list
}

// Logins returns the number of clients that are logging in.
func (s *Server) Logins() int {
	s.mu.Lock()
	sessions := s.snapshotSessions()
	s.mu.Unlock()
	n := 0
	for _, sess := range sessions {
		sess.mu.Lock()
		if sess.relay == nil {
			n++
		}
		sess.mu.Unlock()
	}
	return n
}
