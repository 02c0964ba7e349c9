package backends

import (
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// scripted is a server that knows just enough of the protocol to be monitored, and does what a test wants.
type scripted struct {
	Target

	mu        sync.Mutex
	identity  string
	recovery  bool
	written   int
	logins    int
	refusal   *pgproto3.ErrorResponse // to every login
	mute      bool                    // logins get no answer
	sessions  map[net.Conn]struct{}
	farewells int // sessions that the client ended with Terminate
}

// newScripted starts a server named db1, a primary.
func newScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{written: 1000, identity: "7000000000000000001", sessions: make(map[net.Conn]struct{})}
	s.Target = target(serve(t, s.script), TLSOff)
	return s
}

// set changes the server under its lock.
func (s *scripted) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// endSessions does what a postmaster does to its sessions when it stops at once.
func (s *scripted) endSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.sessions {
		_ = conn.Close()
	}
}

// countLogins returns how many logins there were, those refused included.
func (s *scripted) countLogins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

func (s *scripted) script(conn net.Conn) {
	b := pgproto3.NewBackend(conn, conn)
	if receiveStartup(b) == nil {
		return
	}
	s.mu.Lock()
	s.logins++
	refusal, mute := s.refusal, s.mute
	if refusal == nil && !mute {
		s.sessions[conn] = struct{}{}
	}
	s.mu.Unlock()
	switch {
	case mute:
		_, _ = io.Copy(io.Discard, conn)
	case refusal != nil:
		say(b, refusal)
	default:
		say(b, &pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "server_version", Value: "99.1"},
			&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		if s.answer(b) {
			s.set(func() { s.farewells++ })
		}
	}
	s.set(func() { delete(s.sessions, conn) })
}

// answer goes through one session of extended queries. It returns whether the client took its leave.
func (s *scripted) answer(b *pgproto3.Backend) (polite bool) {
	for {
		m, err := b.Receive()
		if err != nil {
			return false
		}
		switch m := m.(type) {
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Describe:
			if m.ObjectType == 'S' {
				b.Send(&pgproto3.ParameterDescription{})
			}
			b.Send(&pgproto3.RowDescription{Fields: make([]pgproto3.FieldDescription, roleColumns)})
		case *pgproto3.Execute:
			b.Send(s.row())
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		case *pgproto3.Sync:
			say(b, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return true
		}
	}
}

func (s *scripted) row() *pgproto3.DataRow {
	s.mu.Lock()
	defer s.mu.Unlock()
	values := make([][]byte, roleColumns)
	values[0], values[1], values[2], values[3] = []byte("f"), []byte(s.identity), []byte("3"), []byte(strconv.Itoa(s.written))
	if s.recovery {
		values[0], values[2], values[3] = []byte("t"), nil, nil
	}
	return &pgproto3.DataRow{Values: values}
}
