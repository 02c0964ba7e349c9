//go:build !relay_goroutines

package relay

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

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
	interest uint32 // events asked of epoll; known says whether it knows the descriptor at all
	known    bool

	run      int  // bytes read since the peer was
	gathered bool // see heard
	quiet    bool // not heard since the loop looked

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
		g.heard(n)
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
