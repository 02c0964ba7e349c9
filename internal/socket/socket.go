// Package socket is the stream socket under each leg of a session: a TCP or unix-domain connection with the keepalive
// that a proxy needs, the few bytes that were read too early, half-close and reset.
//
// It knows nothing of TLS or of PostgreSQL. The front (tlsfront) wraps what it accepts and the dialer (backends) what it
// dials; TLS, where there is any, runs on top of a Socket, so that the relay (internal/relay) can always find the socket
// below a leg.
package socket

import (
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Both must be set on both legs: keepalive finds a peer that vanished while the connection was idle, and only
// TCP_USER_TIMEOUT one that vanished while data was on its way to it (tcp(7)).
const (
	// keepAliveIdle, keepAliveInterval and keepAliveCount ask an idle peer for a sign of life. Where there is a user timeout
	// it, and not the count, says when the peer is given up. Each socket waits longer than keepAliveIdle by a part of
	// keepAliveSpread of its own: the probes of thousands that connected together would leave together, round by round, and be
	// lost in the same full queue each time (on loopback net.core.netdev_max_backlog), until the user timeout.
	keepAliveIdle     = 30 * time.Second
	keepAliveSpread   = 60 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 3
	// userTimeout is how long sent data, or a keepalive probe, may stay unacknowledged. Linux counts the time too in which a
	// living peer does not read, so it is also the longest pause of a client in the middle of a large result.
	userTimeout = 5 * time.Minute
)

// Socket is a connected stream socket. It is a net.Conn with the concurrency of one: one reader and one writer at a time,
// deadlines and Close from anywhere.
type Socket struct {
	net.Conn
	unread  []byte
	onWrite func()   // nil for nothing
	records *records // not nil under TLS
	memory  *Memory  // not nil once detached
}

// New takes over conn, which is the Socket's from here on, and sets keepalive and user timeout where it is TCP. A
// connection that is neither TCP nor unix-domain (a net.Pipe in a test) is taken as it is.
func New(conn net.Conn) (*Socket, error) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: keepAliveIdle + rand.N(keepAliveSpread), Interval: keepAliveInterval, Count: keepAliveCount,
		}); err != nil {
			return nil, fmt.Errorf("set keepalive: %w", err)
		}
		if err := setUserTimeout(tcp, userTimeout); err != nil {
			return nil, fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
		}
	}
	return &Socket{Conn: conn}, nil
}

// StartTLS says that everything read from now on is TLS records, before the handshake begins. It lets a detached Socket
// hand them out one at a time.
func (s *Socket) StartTLS() { s.records = new(records) }

// Unread puts bytes back, to be returned by the next reads before anything of the connection. The Socket keeps p. It must
// not be called while a Read is under way, nor after StartTLS.
func (s *Socket) Unread(p []byte) {
	s.unread = append(p, s.unread...)
}

// Read reads what was put back by Unread, then the connection; once detached, what was fed to the memory.
func (s *Socket) Read(p []byte) (n int, err error) {
	switch {
	case s.memory != nil && s.records != nil:
		n, err = s.memory.read(p, s.records.limit())
	case s.memory != nil:
		n, err = s.memory.read(p, len(p))
	case len(s.unread) > 0:
		n = copy(p, s.unread)
		if s.unread = s.unread[n:]; len(s.unread) == 0 {
			s.unread = nil
		}
	default:
		n, err = s.Conn.Read(p)
	}
	if s.records != nil {
		s.records.advance(p[:n])
	}
	return n, err
}

// OnWrite calls f once, when the next Write begins. It must not be called while a Write is under way.
func (s *Socket) OnWrite(f func()) { s.onWrite = f }

// Write writes to the connection; once detached, to the memory.
func (s *Socket) Write(p []byte) (int, error) {
	if f := s.onWrite; f != nil {
		s.onWrite = nil
		f()
	}
	if s.memory != nil {
		s.memory.out = append(s.memory.out, p...)
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// CloseWrite shuts down the sending half, so that the peer reads an end of file and may still answer.
func (s *Socket) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Close()
}

// Reset closes the connection so that the peer's kernel drops it at once, with whatever was on its way: a TCP peer gets
// RST. A unix-domain peer sees a plain close.
func (s *Socket) Reset() error {
	if tcp, ok := s.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // best effort: the close below counts
	}
	return s.Close()
}
