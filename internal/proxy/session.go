package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
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

// end ends the session with an error: by the relay once there is one, before that by cutting the login short, unless it may wait
// until the session is idle: then the login goes on to its end first.
func (s *session) end(e relay.Ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endNow(e)
}

// endNow is end for a caller that holds mu.
func (s *session) endNow(e relay.Ending) {
	s.ending = &e
	switch {
	case s.relay != nil:
		s.relay.End(e)
	case !e.Idle:
		s.interrupt()
	}
}

// cutShort returns what a login is to be refused with that the program wants to end now, nil for one that may go on. The caller
// holds mu.
func (s *session) cutShort() error {
	if s.ending == nil || s.ending.Idle {
		return nil
	}
	return s.ending.Error
}

// interrupt makes every wait of the login fail at once. The caller holds mu.
func (s *session) interrupt() {
	s.cancel()
	past := time.Unix(1, 0)
	_ = s.client.Conn.SetReadDeadline(past)
	if s.leg != nil {
		_ = s.leg.SetDeadline(past)
	}
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

// fail ends a session that did not come to be relayed: the client is told what it may know, the log the rest.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.leg != nil {
		_ = s.leg.Close()
		s.leg = nil
	}
	if s.ending != nil && !s.ending.Idle && s.ending.Error != nil {
		err = refuse(ReasonEnded, s.ending.Error)
	}
	s.mu.Unlock()
	if errors.Is(err, errServerLost) {
		s.suspect()
	}
	var passed *serverError
	switch {
	case errors.As(err, &passed): // the client has the server's own message already
		s.log(s.levelOf(err, slog.LevelInfo), "session refused by server", "sqlstate", passed.sqlState)
	case errors.Is(err, errClientGone):
		s.log(slog.LevelDebug, "client gone during login", "err", err)
	default:
		if !time.Now().Before(s.client.Deadline) {
			err = errors.Join(s.expired, err)
		}
		s.log(s.levelOf(err, slog.LevelWarn), "session refused", "reason", reasonOf(err), "err", err)
		if message, encodeErr := forClient(err).AppendBinary(nil); encodeErr == nil {
			_ = s.client.Conn.SetDeadline(time.Now().Add(time.Second))
			_, _ = s.client.Conn.Write(message)
			s.linger()
		}
	}
	s.server.metrics.Refused(s.decision.Cluster, string(reasonOf(err)))
	s.leave()
	_ = s.client.Conn.Close()
}

// levelOf is the level of the line about a login that ended with err: the usual one, or Debug beyond what strangers may fill the
// log with.
func (s *session) levelOf(err error, usual slog.Level) slog.Level {
	return s.server.gate.LogLevel(usual, string(reasonOf(err)), s.client.IP())
}

// linger lets a client that was refused read why: bytes of it that nobody has read would make the kernel reset the connection
// at its close, and take the message away. It takes a second at most, and a client that goes away ends it.
func (s *session) linger() {
	const most = 128 << 10
	if c, ok := s.client.Conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, s.client.Conn, most)
	}
}

// suspect has the session's server asked at once how it is.
func (s *session) suspect() { s.cluster.monitor.Suspect(s.target.Name) }

// ended is told by the relay how the session went.
func (s *session) ended(r relay.Result) {
	level := slog.LevelDebug
	switch r.Cause {
	case relay.ServerFailed, relay.Violation:
		level = slog.LevelWarn
	case relay.Ended:
		level = slog.LevelInfo
	}
	attrs := []any{"cause", r.Cause.String(), "to_server", r.ToServer, "to_client", r.ToClient}
	if r.Err != nil {
		attrs = append(attrs, "err", r.Err)
	}
	s.log(level, "session closed", attrs...)
	s.closed(r)
	if !r.Interrupted || s.key.Key == nil {
		s.leave()
		return
	}
	s.server.ends.Add(1) // before nobody knows the session any more
	defer s.server.ends.Done()
	s.leave()
	s.server.orphans.cancel(s.target, s.key)
}

// leave takes the session out of everything that knows it.
func (s *session) leave() {
	s.stop()
	s.forget()
	s.moveTo("")
	s.visit.Leave()
	s.server.remove(s)
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

// errClientGone is a client that closed its connection in the middle of its login: nobody is left to be told.
var errClientGone = errors.New("client closed the connection")

// serverError is an ErrorResponse of the server that was passed on to the client.
type serverError struct{ sqlState string }

func (e *serverError) Error() string { return "server refused the login with SQLSTATE " + e.sqlState }

// clientError wraps an error of the client's connection.
func clientError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return errors.Join(errClientGone, err)
	}
	return err
}

// write sends b to the client.
func (s *session) write(b []byte) error {
	if _, err := s.client.Conn.Write(b); err != nil {
		return clientError(err)
	}
	return nil
}

// place turns the startup packet into a request, and the request into a decision, for which the session may have to wait.
func (s *session) place(ctx context.Context) error {
	if err := s.visit.Late(); err != nil {
		return errLimit(err)
	}
	q, err := s.ask()
	if err != nil {
		return err
	}
	if entry := s.settings.routes.Enter(q); !entry.Allowed {
		return errNoEntry(entry)
	}
	s.decide()
	if s.decision.Route >= 0 {
		s.route = s.settings.routes.Routes[s.decision.Route].String()
	}
	if c := s.cluster; c != nil && !c.AllowMonitorUser && clip(q.User, maxName) == c.Monitor.Credentials.User {
		return errMonitorUser(q.User)
	}
	if s.decision.Verdict == policy.Refuse {
		return errNoRoute(s.decision, q)
	}
	if err := s.knock(ctx); err != nil {
		return err
	}
	if s.decision.Verdict == policy.Wait {
		return s.hold(ctx, 0)
	}
	return nil
}

// minLSN is the setting in the client's options that names the position in the write-ahead log which a replica must have
// replayed to take the session. It is the proxy's: no server sees it.
const minLSN = "pgreplicaproxy.min_lsn"

// ask reads the request from the startup packet.
func (s *session) ask() (policy.Request, error) {
	startup := s.client.Opening.Startup
	q := policy.Request{User: startup.User(), Database: startup.Database(), Address: s.client.IP()}
	if s.client.TLS != nil {
		q.ServerName, q.TLS = s.client.TLS.ServerName, true
		q.Certificate = len(s.client.TLS.VerifiedChains) > 0
	}
	var err error
	if q.User == "" {
		err = errNoUser
	} else if q.Replication, err = startup.Replication(); err != nil {
		value, _ := startup.Get("replication")
		err = errors.Join(errReplication(value), err)
	} else if rest, value, found := startup.TakeSetting(minLSN); found {
		s.client.Opening.Startup = rest
		if q.Replayed, err = policy.ParseLSN(value); err != nil {
			err = errors.Join(errMinLSN(value), err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request = q
	return q, err
}

// maxName is the longest name that servers know; they cut longer ones (NAMEDATALEN in src/include/pg_config_manual.h).
const maxName = 63

// clip cuts a name to at most n bytes.
func clip(name string, n int) string { return name[:min(len(name), max(n, 0))] }

// startup is the packet that the server is to see: the client's own, with no more than the database changed, and
// application_name where the cluster wants the client's address there.
func (s *session) startup() wire.Startup {
	startup := s.client.Opening.Startup
	if startup.Database() != s.decision.Database {
		startup = startup.With("database", s.decision.Database)
	}
	if s.cluster.NameClients && !s.request.Replication { // whose name may stand in synchronous_standby_names
		name, _ := startup.Get("application_name")
		startup = startup.With("application_name", nameClient(name, s.client.Address))
	}
	return startup
}

// originOf returns on whose behalf servers are dialled for a client.
func originOf(client *tlsfront.Client) backends.Origin {
	return backends.Origin{Source: client.Address, Destination: client.Destination}
}

// nameClient adds the client's address to its application_name. It shortens the name where the server would cut the address.
func nameClient(name string, address net.Addr) string {
	where := "local"
	if address.Network() != "unix" {
		where = address.String()
	}
	suffix := " (" + where + ")"
	return strings.TrimLeft(clip(name, maxName-len(suffix))+suffix, " ")
}
