package socket

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Detach takes the connection out of Go's own poller. It returns the descriptor, non-blocking and the caller's to close, and
// the memory that the Socket reads from and writes to from now on; what Unread has put back is in it. The addresses stay
// readable. It must not be called while the Socket is in use. A connection without a descriptor (a net.Pipe) is an error,
// and stays as it is.
func (s *Socket) Detach() (fd int, m *Memory, err error) {
	sc, ok := s.Conn.(syscall.Conn)
	if !ok {
		return 0, nil, errors.New("detach: connection has no descriptor")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, nil, fmt.Errorf("detach: %w", err)
	}
	var dupErr error
	// A duplicate of the descriptor keeps the connection open when Go closes its own, and Go's poller does not know it.
	if err := raw.Control(func(own uintptr) {
		fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || dupErr != nil {
		return 0, nil, fmt.Errorf("detach: %w", errors.Join(err, dupErr))
	}
	_ = s.Conn.Close()
	s.Conn = detached{local: s.Conn.LocalAddr(), remote: s.Conn.RemoteAddr()} // which needs less memory
	s.memory = &Memory{in: s.unread, tracked: s.records != nil}
	s.unread = nil
	return fd, s.memory, nil
}

// detached stands in for a connection that was taken away: it knows the addresses, and nothing works any more.
type detached struct{ local, remote net.Addr }

func (d detached) LocalAddr() net.Addr              { return d.local }
func (d detached) RemoteAddr() net.Addr             { return d.remote }
func (d detached) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (d detached) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (d detached) Close() error                     { return net.ErrClosed }
func (d detached) SetDeadline(time.Time) error      { return net.ErrClosed }
func (d detached) SetReadDeadline(time.Time) error  { return net.ErrClosed }
func (d detached) SetWriteDeadline(time.Time) error { return net.ErrClosed }
