package socket

import (
	"net"
	"time"
)

// Memory is what a detached Socket reads from and writes to instead of a connection: the way in which an event loop feeds
// crypto/tls. It is for one goroutine.
type Memory struct {
	in  []byte // received, not yet read
	end error  // what comes after in; nil while the peer has not closed
	out []byte // written, not yet taken

	closed  bool
	tracked bool // reads end at TLS records
}

// wouldBlock says that nothing is there to read now. crypto/tls takes an error that is temporary as no harm done, and may
// be asked again (Conn.readRecordOrCCS).
type wouldBlock struct{}

func (wouldBlock) Error() string   { return "nothing to read yet" }
func (wouldBlock) Timeout() bool   { return true }
func (wouldBlock) Temporary() bool { return true }

// ErrWouldBlock is what reading from a detached Socket returns when everything fed to it was read.
var ErrWouldBlock error = wouldBlock{}

// Feed hands p to the next reads. The reader must read until ErrWouldBlock before p may be used otherwise.
func (m *Memory) Feed(p []byte) { m.in = p }

// Empty reports whether everything fed was read and the peer has not closed.
func (m *Memory) Empty() bool { return len(m.in) == 0 && m.end == nil }

// Tracked reports whether reads end at TLS records; see Socket.StartTLS.
func (m *Memory) Tracked() bool { return m.tracked }

// Rest takes back what was fed and not read; after Detach it is what Unread had put back.
func (m *Memory) Rest() []byte {
	rest := m.in
	m.in = nil
	return rest
}

// FeedEnd makes reads return err once what was fed is read.
func (m *Memory) FeedEnd(err error) { m.end = err }

// Output returns what was written since the last call, and makes the next writes append to b.
func (m *Memory) Output(b []byte) []byte {
	written := m.out
	m.out = b
	return written
}

// Close says that the descriptor was closed, for those who ask the Socket.
func (m *Memory) Close() { m.closed = true }

// read reads what was fed, limit bytes at most.
func (m *Memory) read(p []byte, limit int) (int, error) {
	switch {
	case len(m.in) > 0:
		n := copy(p[:min(len(p), limit)], m.in)
		m.in = m.in[n:]
		return n, nil
	case m.end != nil:
		return 0, m.end
	default:
		return 0, ErrWouldBlock
	}
}

// deadline sets a deadline, which has no meaning while the descriptor is somebody else's.
func (s *Socket) deadline(set func(time.Time) error, t time.Time) error {
	switch {
	case s.memory == nil:
		return set(t)
	case s.memory.closed:
		return net.ErrClosed
	default:
		return nil
	}
}

// SetDeadline sets the deadlines of reads and writes. A detached Socket has none.
func (s *Socket) SetDeadline(t time.Time) error { return s.deadline(s.Conn.SetDeadline, t) }

// SetReadDeadline sets the deadline of reads. A detached Socket has none.
func (s *Socket) SetReadDeadline(t time.Time) error { return s.deadline(s.Conn.SetReadDeadline, t) }

// SetWriteDeadline sets the deadline of writes. A detached Socket has none.
func (s *Socket) SetWriteDeadline(t time.Time) error { return s.deadline(s.Conn.SetWriteDeadline, t) }
