package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/relay"
)

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

// suspect has the session's server asked at once how it is.
func (s *session) suspect() { s.cluster.monitor.Suspect(s.target.Name) }

// leave takes the session out of everything that knows it.
func (s *session) leave() {
	s.stop()
	s.forget()
	s.moveTo("")
	s.visit.Leave()
	s.server.remove(s)
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
