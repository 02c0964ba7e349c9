//go:build !relay_goroutines

package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/replicon/pgreplicaproxy/internal/socket"
)

// leg is one connection of a session on a loop: a descriptor, with crypto/tls fed from memory above it or not.
type leg struct {
	r    *Relay
	peer *leg
	fd   int // -1 once closed

	tls    *tls.Conn // nil without TLS
	memory *socket.Memory
	// drained is true once TLS was read until it had nothing. From then on it holds no more than a part of one record when all
	// that was fed is read, because it is fed by records.
	drained bool

	waiting  []byte // what the kernel has not taken yet; while there is any, the peer is not read
	interest uint32 // events asked of epoll; registered says whether it knows the descriptor at all
	known    bool

	ended    bool // nothing more will be read
	closing  bool // the sending half is to be closed once nothing waits
	shutdown bool // it was
}

// attach takes a connection out of Go's poller.
func (g *leg) attach(r *Relay, peer *leg, conn net.Conn) (err error) {
	g.r, g.peer, g.fd = r, peer, -1
	sock, ok := conn.(*socket.Socket)
	if !ok {
		if g.tls, ok = conn.(*tls.Conn); ok {
			sock, ok = g.tls.NetConn().(*socket.Socket)
		}
	}
	if !ok {
		return fmt.Errorf("relay: cannot run on %T", conn)
	}
	g.fd, g.memory, err = sock.Detach()
	return err
}

// abandon closes a connection, attached or not, that will not be relayed.
func (g *leg) abandon(conn net.Conn) {
	if g.memory != nil {
		_ = unix.Close(g.fd)
		return
	}
	_ = conn.Close()
}

// event handles what epoll tells of the leg.
func (g *leg) event(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		g.flush()
	}
	const ended = unix.EPOLLERR | unix.EPOLLHUP
	switch {
	case g.fd < 0:
	case g.interest&unix.EPOLLIN != 0 && events&(unix.EPOLLIN|ended) != 0:
		g.read() // tells too how it ended
	case events&unix.EPOLLERR != 0 && g == &g.r.client:
		g.finish(errBroken) // nobody is left to read for
	case events&ended != 0:
		g.forget() // epoll would tell it again and again; what is left to read waits
	}
	if g.fd >= 0 {
		g.update()
	}
}

// read reads what is there, a few buffers of it at most, and hands it on.
func (g *leg) read() {
	l := g.r.loop
	for range readTurn {
		n, err := readNow(g.fd, l.raw[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			g.finish(os.NewSyscallError("read", err))
			return
		case n == 0:
			g.eof()
			return
		}
		g.received(l.raw[:n])
		// A short read has emptied the socket (epoll(7)); a peer that does not take what it gets stops us.
		if n < len(l.raw) || g.fd < 0 || g.ended || len(g.peer.waiting) > 0 {
			return
		}
	}
}

// received hands raw bytes on, decrypted first where there is TLS. Nil asks what TLS already holds.
func (g *leg) received(raw []byte) {
	if g.tls == nil {
		if len(raw) > 0 {
			g.r.forward(g, raw)
		}
		return
	}
	l := g.r.loop
	g.memory.Feed(raw)
	g.memory.Output(l.wire[:0])
	for {
		clear := l.clear[:0]
		var err error
		for err == nil && cap(clear)-len(clear) >= maxRecord {
			var n int
			n, err = g.tls.Read(clear[len(clear):cap(clear)])
			clear = clear[:len(clear)+n]
			if err == nil && g.drained && g.memory.Empty() {
				err = socket.ErrWouldBlock // which asking once more would tell
			}
		}
		// TLS itself may have had to answer (a key update, an alert).
		if answer := g.memory.Output(nil); len(answer) > 0 {
			g.write(answer)
		}
		if len(clear) > 0 && g.fd >= 0 {
			g.r.forward(g, clear)
		}
		switch {
		case g.fd < 0 || g.ended:
			return
		case err == nil: // the buffer was full
			g.memory.Output(l.wire[:0])
		case errors.Is(err, socket.ErrWouldBlock):
			g.drained = g.memory.Tracked()
			return
		case errors.Is(err, io.EOF):
			g.finish(nil)
			return
		default:
			g.finish(err)
			return
		}
	}
}

// maxRecord is the most that one TLS record holds (RFC 8446 section 5.1).
const maxRecord = 16 << 10

// eof handles the end of the peer's sending half.
func (g *leg) eof() {
	if g.tls == nil {
		g.finish(nil)
		return
	}
	// Behind close_notify it is the end; without, somebody may have cut the connection off.
	g.memory.FeedEnd(io.EOF)
	g.received(nil)
}

// finish says that nothing more will be read from the leg: err is nil for a proper end.
func (g *leg) finish(err error) {
	g.ended = true
	g.r.readEnded(g, err)
}

// writeFailed says that nothing more can be written to the leg.
func (g *leg) writeFailed(err error) {
	g.waiting, g.shutdown = nil, true
	g.r.writeEnded(g, err)
}

// errBroken is a connection that the kernel calls broken while nothing is read from it.
var errBroken = errors.New("connection broken")

// send encrypts a piece, where there is TLS, and writes it. What the kernel does not take waits.
func (g *leg) send(piece []byte) {
	if g.tls == nil {
		g.write(piece)
		return
	}
	l := g.r.loop
	g.memory.Output(l.wire[:0])
	_, err := g.tls.Write(piece)
	encrypted := g.memory.Output(nil)
	l.keep(encrypted)
	if err != nil {
		g.writeFailed(err)
		return
	}
	g.write(encrypted)
}

// keep lets the loop's buffer grow with what was needed once.
func (l *loop) keep(b []byte) {
	if cap(b) > cap(l.wire) && cap(b) <= 8*rawBuffer {
		l.wire = b[:0]
	}
}

// write writes bytes as they are, behind those that wait.
func (g *leg) write(p []byte) {
	if g.fd < 0 || g.shutdown {
		return
	}
	n := 0
	if len(g.waiting) == 0 {
		var err error
		n, err = writeNow(g.fd, p)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			g.writeFailed(os.NewSyscallError("write", err))
			return
		}
	}
	if n < len(p) {
		g.waiting = append(g.waiting, p[n:]...)
		g.update()
		g.peer.update()
	}
}

// flush writes what waits, and closes the sending half behind it if that was asked for.
func (g *leg) flush() {
	for len(g.waiting) > 0 {
		n, err := writeNow(g.fd, g.waiting)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			g.writeFailed(os.NewSyscallError("write", err))
			return
		}
		g.waiting = g.waiting[n:]
	}
	g.waiting = nil
	g.r.flushed(g)
	if g.fd < 0 {
		return
	}
	if g.closing && !g.shutdown {
		g.shutdown = true
		_ = unix.Shutdown(g.fd, unix.SHUT_WR)
	}
	g.peer.update()
}

// closeWrite ends the sending half, behind everything that waits: for TLS with close_notify (RFC 8446 section 6.1), then on
// the socket.
func (g *leg) closeWrite() {
	if g.fd < 0 || g.closing {
		return
	}
	g.closing = true
	if g.tls != nil {
		g.memory.Output(g.r.loop.wire[:0])
		_ = g.tls.CloseWrite()
		g.write(g.memory.Output(nil))
	}
	if g.fd >= 0 {
		g.flush()
	}
}

// close closes the descriptor at once. With reset the peer's kernel is told to drop what is on its way.
func (g *leg) close(reset bool) {
	if g.fd < 0 {
		return
	}
	g.forget()
	if reset {
		_ = unix.SetsockoptLinger(g.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	g.r.loop.legs[g.fd] = nil
	_ = unix.Close(g.fd)
	g.memory.Close()
	g.fd, g.ended, g.waiting = -1, true, nil
}

// update tells epoll what the leg waits for.
func (g *leg) update() {
	if g.fd < 0 {
		return
	}
	var want uint32
	if !g.ended && len(g.peer.waiting) == 0 {
		want |= unix.EPOLLIN
	}
	if len(g.waiting) > 0 {
		want |= unix.EPOLLOUT
	}
	if g.known && want == g.interest {
		return
	}
	if !g.known && want == 0 {
		return
	}
	op := unix.EPOLL_CTL_MOD
	if !g.known {
		op = unix.EPOLL_CTL_ADD
	}
	event := unix.EpollEvent{Events: want, Fd: int32(g.fd)}
	if err := unix.EpollCtl(g.r.loop.epoll, op, g.fd, &event); err != nil {
		g.finish(os.NewSyscallError("epoll_ctl", err))
		return
	}
	g.known, g.interest = true, want
}

// forget takes the leg out of epoll.
func (g *leg) forget() {
	if g.known {
		_ = unix.EpollCtl(g.r.loop.epoll, unix.EPOLL_CTL_DEL, g.fd, nil)
		g.known, g.interest = false, 0
	}
}

// readNow reads from a non-blocking descriptor.
func readNow(fd int, p []byte) (int, error) { return transfer(unix.SYS_READ, fd, p) }

// writeNow writes to a non-blocking descriptor.
func writeNow(fd int, p []byte) (int, error) { return transfer(unix.SYS_WRITE, fd, p) }

// transfer makes a system call that cannot block, so Go's scheduler need not hear of it: that costs as much as a small read.
// It is repeated when a signal has interrupted it.
func transfer(call uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
