package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// session is one client from its startup packet to its end. It is in the Server's set all that time, so that it can be
// ended at any moment.
type session struct {
	server  *Server
	client  *tlsfront.Client // nil once the relay has its connection
	up      *wire.Reader     // of client, nil too then
	address string           // the client's
	id      uint64
	started time.Time

	request  policy.Request
	decision policy.Decision
	route    string // of decision, for the metrics
	cluster  *cluster
	settings *settings     // that the login goes by, nil once it is over
	held     time.Duration // how long the session has waited for a server
	placed   string        // the server that counts the session, empty for none

	visit  *admission.Visit
	trial  *admission.Attempt
	key    wire.Cancel // the server's, zero before it was heard
	forget func()      // removes the key from the cancel table
	stop   func() bool
	cancel func() // ends what the login waits for

	mu      sync.Mutex
	target  backends.Target // of leg
	leg     net.Conn        // nil before a server was reached
	expired error           // what is wrong once the client's deadline has passed
	begun   bool            // the client hears the server on leg, so no other can take over
	relay   *relay.Relay    // nil before the login is complete
	ending  *relay.Ending

	counters *metrics.Session // nil before the login is complete
	counted  relay.Stats      // what the counters have of it
	over     bool             // and they have all of it
}

func newSession(s *Server, client *tlsfront.Client) *session {
	return &session{
		server: s, client: client, up: wire.NewReader(client.Conn), address: client.Address.String(),
		id: s.lastID.Add(1), started: time.Now(), settings: s.settings.Load(),
		visit: client.Visit, forget: func() {}, cancel: func() {}, expired: errTimeout,
	}
}

// run logs the session in and starts its relay; it does not wait for the session's end.
func (s *session) run(ctx context.Context) {
	login, cancel := context.WithCancel(ctx)
	defer cancel()
	s.cancel = cancel
	s.server.add(s)
	s.stop = context.AfterFunc(ctx, func() { s.end(relay.Ending{Error: errShutdown, Why: "shutdown"}) })
	ready, err := s.login(login)
	if err != nil {
		s.judged(err)
		s.fail(err)
		return
	}
	s.log(slog.LevelDebug, "session opened")
	if err := s.startRelay(ready); err != nil {
		s.log(slog.LevelError, "session not relayed", "err", err)
		s.leave()
	}
}

// startRelay hands both connections over. An ending that came in the meantime follows them.
func (s *session) startRelay(ready pending) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relay, err = s.server.relays.Start(relay.Config{
		Client: relay.Leg{Conn: s.client.Conn, Pending: ready.fromClient},
		Server: relay.Leg{Conn: s.leg, Pending: ready.fromServer},
		Ended:  s.ended,
		Lost:   s.suspect,
	})
	if err != nil {
		return err
	}
	s.opened()
	// What only the login needed goes: a session may stay for days.
	s.client, s.up, s.settings, s.cancel, s.decision.Backends = nil, nil, nil, nil, nil
	if s.ending != nil {
		s.relay.End(*s.ending)
	}
	return nil
}

// attach makes leg the session's server leg, unless target may no longer serve the session: the role is asked once more
// here because the fence only sees sessions that have a leg.
func (s *session) attach(target backends.Target, leg net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayUse(target); err != nil {
		return err
	}
	s.target, s.leg = target, leg
	return leg.SetDeadline(s.client.Deadline)
}

// begin binds the session to its server leg for good.
func (s *session) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayUse(s.target); err != nil {
		return err
	}
	s.begun = true
	return nil
}

// mayUse says whether the session may go on to use a server. The caller holds mu.
func (s *session) mayUse(target backends.Target) error {
	if err := s.cutShort(); err != nil {
		return err
	}
	snapshot := s.cluster.known()
	i := indexOf(snapshot, target)
	switch {
	case i < 0:
		return refuse(ReasonRole, errRemoved(target))
	case s.cluster.standings.isDraining(target.Name):
		return refuse(ReasonRole, errDraining(target.Name))
	case !s.decision.Target.Serves(snapshot.States[i].Role, s.decision.Fallback):
		return errWrongRole(target.Name, s.decision)
	}
	return nil
}

// detach closes the server leg after a failed attempt, so that another one may follow.
func (s *session) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.leg.Close()
	s.leg = nil
	s.visit.Rise()
}

// setDeadline sets the deadline of both legs, the zero one for none, unless the session is to end or to leave its server.
func (s *session) setDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.cutShort()
	if !s.begun { // the fence may just have ended the leg's time
		err = s.mayUse(s.target)
	}
	if err != nil {
		return err
	}
	return errors.Join(s.client.Conn.SetDeadline(t), s.leg.SetDeadline(t))
}

// log writes one line about the session. What the client chose stands in attributes only.
func (s *session) log(level slog.Level, message string, attrs ...any) {
	if !s.server.log.Enabled(context.Background(), level) {
		return
	}
	s.server.log.With(
		"session", s.id, "client", s.address, "user", s.request.User,
		"database", s.request.Database, "cluster", s.decision.Cluster, "backend", s.target.Name,
		"duration", time.Since(s.started).Round(time.Millisecond).String(),
	).Log(context.Background(), level, message, attrs...)
}

// write sends b to the client.
func (s *session) write(b []byte) error {
	if _, err := s.client.Conn.Write(b); err != nil {
		return clientError(err)
	}
	return nil
}
