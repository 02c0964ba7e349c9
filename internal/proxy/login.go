package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/wire"
)

// attemptTimeout bounds one attempt at one of several servers, from the dial to the first byte of its answer: a server
// whose postmaster is stopped still accepts TCP connections, and then says nothing. No attempt takes more than its share of
// the time that the login has left, and the last candidate has all of it.
const attemptTimeout = 5 * time.Second

// pending is what was read past the login and belongs to the relay.
type pending struct{ fromClient, fromServer []byte }

// login takes the session from the startup packet to the server's first ReadyForQuery.
func (s *session) login(ctx context.Context) (pending, error) {
	if err := s.place(ctx); err != nil {
		return pending{}, err
	}
	if s.cluster.Passthrough != nil {
		return s.loginPassthrough(ctx)
	}
	server, first, err := s.connect(ctx, nil, nil)
	if err != nil {
		return pending{}, err
	}
	a := authentication{session: s, up: s.up, down: server}
	if err := a.run(first); err != nil {
		return pending{}, err
	}
	rest, err := s.settle(server, a.kept, s.write)
	if err != nil {
		return pending{}, err
	}
	return pending{fromClient: a.up.Partial(), fromServer: rest}, s.setDeadline(time.Time{})
}

// readAhead is how much is read of a server in one go during a login: all that it sends behind a SCRAM exchange, and more.
const readAhead = 1024

// serverLeg is the connection to a server during a login.
type serverLeg struct {
	conn *backends.Conn
	// ahead is conn as the login reads it, and reader what reads messages from it. Whoever reads on has to read on there.
	ahead  *bufio.Reader
	reader *wire.Reader
}

func newServerLeg(conn *backends.Conn) serverLeg {
	ahead := bufio.NewReaderSize(conn, readAhead)
	return serverLeg{conn: conn, ahead: ahead, reader: wire.NewReader(ahead)}
}

// pauses reports whether nothing is there of what the server says next.
func (l serverLeg) pauses() bool { return l.ahead.Buffered() == 0 }

// candidatesPerRound is how many servers a login tries before it looks again at what is known of them.
const candidatesPerRound = 3

// connect finds a server that answers, and returns it with its first message. Nothing but the startup packet was sent by then, so
// moving on to the next server is safe, and so is another round: while the session may be held, it waits for news or a moment,
// and is placed anew. keep, where it is not nil, then leaves only those candidates that are still right; enter, where it is not
// nil, logs in without the client's help, which is part of the attempt.
func (s *session) connect(ctx context.Context, keep func(context.Context) error, enter loginFunc) (serverLeg, wire.Message, error) {
	for tried := 1; ; tried++ {
		leg, first, err := s.round(ctx, enter)
		if err == nil {
			return leg, first, nil
		}
		var refused *refusedError
		if reasonOf(err) == ReasonLimit || errors.As(err, &refused) {
			return serverLeg{}, wire.Message{}, err
		}
		if err := s.again(ctx, tried, err); err != nil {
			return serverLeg{}, wire.Message{}, err
		}
		if keep != nil {
			if err := keep(ctx); err != nil {
				return serverLeg{}, wire.Message{}, err
			}
		}
	}
}

// round tries the candidates in turn. The last one's own words count when no time for another round is left.
func (s *session) round(ctx context.Context, enter loginFunc) (serverLeg, wire.Message, error) {
	var failures error
	free := s.notFull(s.decision.Backends)
	if len(free) == 0 {
		return serverLeg{}, wire.Message{}, errServerFull(s.decision.Backends[0])
	}
	candidates := free[:min(len(free), candidatesPerRound)]
	for i, name := range candidates {
		s.moveTo(name)
		left := len(candidates) - i
		leg, first, err := s.attempt(ctx, name, left)
		if err == nil && turnedAway(first) {
			s.cluster.monitor.Suspect(name) // it may be stopping: its sessions should not keep it from that
			if left > 1 || s.patience() > 0 {
				s.detach()
				err = fmt.Errorf("%s turned the session away before authentication", name)
			}
		}
		if err == nil {
			if err = s.logInto(ctx, leg, first, enter); err == nil {
				return leg, first, nil
			}
			var refused *refusedError
			if errors.As(err, &refused) {
				return serverLeg{}, wire.Message{}, err
			}
			s.detach()
		}
		s.visit.Rise()
		failures = errors.Join(failures, err)
		if reasonOf(err) == ReasonLimit {
			continue
		}
		if !errors.Is(err, errHurried) {
			s.cluster.monitor.Suspect(name)
		}
		if ctx.Err() != nil || time.Now().After(s.client.Deadline) {
			break
		}
	}
	return serverLeg{}, wire.Message{}, errors.Join(errUnreachable(s.decision), failures)
}

// loginFunc logs in to a server that has answered, with its first message.
type loginFunc func(ctx context.Context, leg serverLeg, first wire.Message) error

// refusedError is an error of a login that another server would not mend.
type refusedError struct{ error }

func (e *refusedError) Unwrap() error { return e.error }

// logInto binds the session to the server that has answered: from here on the client hears it. A server that is lost in a login
// which the client has no part in can be left for the next one.
func (s *session) logInto(ctx context.Context, leg serverLeg, first wire.Message, login loginFunc) error {
	if login != nil {
		if err := login(ctx, leg, first); errors.Is(err, errServerLost) {
			return err
		} else if err != nil {
			return &refusedError{err}
		}
	}
	return s.begin()
}

// attempt dials one server of those left, sends the startup packet and reads the first message of the answer.
func (s *session) attempt(ctx context.Context, name string, left int) (serverLeg, wire.Message, error) {
	st, named := s.cluster.known().State(name)
	if !named {
		return serverLeg{}, wire.Message{}, fmt.Errorf("server %s was removed", name)
	}
	if err := s.sit(st.Target); err != nil {
		return serverLeg{}, wire.Message{}, err
	}
	deadline := s.client.Deadline
	if left > 1 || s.patience() > 0 {
		share := time.Until(deadline) / time.Duration(left)
		deadline = time.Now().Add(min(attemptTimeout, share))
	}
	dialCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	done, err := s.cluster.standings.dial(dialCtx, name, s.cluster.Placement.MaxDials)
	if err != nil {
		return serverLeg{}, wire.Message{}, fmt.Errorf("wait for a dial to %s: %w", name, err)
	}
	defer done()
	given := time.Until(deadline)
	leg, first, err := s.greet(dialCtx, st.Target, deadline)
	if hurried(err, given) {
		return leg, first, errors.Join(errHurried, err)
	}
	if ctx.Err() == nil {
		s.rate(st.Target, err != nil || turnedAway(first), err)
	}
	return leg, first, err
}

// greet opens a connection and brings it to the server's first message.
func (s *session) greet(ctx context.Context, target backends.Target, deadline time.Time) (serverLeg, wire.Message, error) {
	conn, err := backends.Dial(ctx, target, originOf(s.client))
	if err != nil {
		return serverLeg{}, wire.Message{}, err
	}
	if err := s.attach(target, conn.Conn); err != nil {
		_ = conn.Close()
		return serverLeg{}, wire.Message{}, err
	}
	leg := newServerLeg(conn)
	first, err := s.introduce(leg, deadline)
	if err != nil {
		s.detach()
		return serverLeg{}, wire.Message{}, fmt.Errorf("start session on %s: %w", target.Name, err)
	}
	return leg, first, nil
}

// introduce sends the startup packet and waits for the answer.
func (s *session) introduce(leg serverLeg, deadline time.Time) (wire.Message, error) {
	packet, err := s.startup().AppendBinary(nil)
	if err != nil {
		return wire.Message{}, err
	}
	stop := time.AfterFunc(time.Until(deadline), func() { _ = leg.conn.SetReadDeadline(time.Unix(1, 0)) })
	if _, err := leg.conn.Write(packet); err != nil {
		stop.Stop()
		return wire.Message{}, err
	}
	first, err := leg.reader.Next(wire.MaxLogin)
	if !stop.Stop() { // the deadline it has set would end a later read
		return wire.Message{}, errors.Join(err, os.ErrDeadlineExceeded)
	}
	return first, err
}

// turnedAway reports whether a server refused before it asked for anything, for a reason that another server of the
// cluster need not have: it is starting, stopping or full.
func turnedAway(m wire.Message) bool {
	if m.Type != wire.TypeErrorResponse {
		return false
	}
	state, err := m.SQLState()
	return err == nil && (state == wire.CannotConnectNow || state == wire.TooManyConnections)
}

// readyTimeout bounds what comes between AuthenticationOk and the first ReadyForQuery: a server may have login triggers and
// libraries to run through, but a session that nothing comes of must not stay for ever.
const readyTimeout = time.Minute

// settle passes on what was kept of the login, and what the server says between AuthenticationOk and its first ReadyForQuery,
// for readyTimeout at most, notes the cancel key on the way, and returns what was read behind. A server whose in_hot_standby says
// that it has another role than the session was placed for is left before the client hears that it may begin.
func (s *session) settle(server serverLeg, kept []byte, pass func([]byte) error) ([]byte, error) {
	s.client.Deadline, s.expired = time.Now().Add(readyTimeout), errNotReady
	if err := s.setDeadline(s.client.Deadline); err != nil {
		return nil, err
	}
	var buf []byte
	for {
		chunk := make([]byte, 4096) // as much as is ahead at least
		n, err := server.ahead.Read(chunk)
		buf = append(buf, chunk[:n]...)
		rest, ready, lookErr := s.look(buf)
		kept = append(kept, buf[:len(buf)-len(rest)]...)
		if len(kept) > 0 && (lookErr == nil || errors.As(lookErr, new(*serverError))) {
			if err := pass(kept); err != nil {
				return nil, err
			}
			kept = kept[:0]
		}
		switch {
		case lookErr != nil:
			return nil, lookErr
		case ready:
			return rest, nil
		case err != nil:
			return nil, fmt.Errorf("%w before the session was ready: %w", errServerLost, err)
		}
		buf = append([]byte(nil), rest...)
	}
}

// look walks over the whole messages of buf up to the first ReadyForQuery and returns what follows them.
func (s *session) look(buf []byte) (rest []byte, ready bool, err error) {
	for rest = buf; ; {
		m, after, ok, err := wire.CutMessage(rest, wire.MaxReady)
		if err != nil || !ok {
			return rest, false, err
		}
		switch rest = after; m.Type {
		case wire.TypeReadyForQuery:
			return rest, true, nil
		case wire.TypeErrorResponse:
			state, _ := m.SQLState()
			return rest, false, &serverError{sqlState: state}
		case wire.TypeBackendKeyData:
			s.noteKey(m)
		case wire.TypeParameterStatus:
			if err := s.checkRole(m); err != nil {
				return rest, false, err
			}
		}
	}
}

// noteKey remembers where a CancelRequest with this key belongs. A key that no request could name (a pooler's process 0) is
// none to remember.
func (s *session) noteKey(m wire.Message) {
	key, err := wire.ParseBackendKeyData(m)
	if err != nil {
		return
	}
	s.forget()
	s.key = key
	s.forget = s.server.cancels.add(key, s.target)
}

// checkRole compares in_hot_standby, which servers from 14 on report, with what the session was placed for: a promotion
// between the monitor's question and this login would show here first.
func (s *session) checkRole(m wire.Message) error {
	name, value, ok := m.ParameterStatus()
	if !ok || name != "in_hot_standby" {
		return nil
	}
	role := policy.Primary
	if value == "on" {
		role = policy.Replica
	}
	if s.decision.Target.Serves(role, s.decision.Fallback) {
		return nil
	}
	s.suspect()
	return errWrongRole(s.target.Name, s.decision)
}
