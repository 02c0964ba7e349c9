//go:build !relay_goroutines

package relay

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

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
