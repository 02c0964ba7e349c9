//go:build !relay_goroutines

package relay

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A leg that sends much at a time is gathered: the kernel tells of it only when a whole buffer is there (SO_RCVLOWAT, socket(7); TCP
// alone heeds it in epoll), which nearly halves the reads and writes of a COPY from a server. What is less than a buffer would
// never be told of, so the loop looks at the time, and a leg that said nothing for gatherTime is gathered no more.

const (
	// gatherAfter is how many bytes, with nothing from the peer in between, make a leg one that is gathered: so many that
	// gatherTime does not matter beside the time they took.
	gatherAfter = 16 << 20
	// gatherTime is how long less than a buffer may wait; twice that at most.
	gatherTime = time.Millisecond
)

// heard notes that so many bytes were read from the leg.
func (g *leg) heard(n int) {
	g.quiet, g.peer.run = false, 0
	if g.run += n; g.run < gatherAfter || g.gathered {
		return
	}
	if unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, rawBuffer) == nil { // else it goes on as before
		g.gathered = true
		g.r.loop.gathered = append(g.r.loop.gathered, g)
	}
}

// releaseQuiet ends the gathering of the legs that were not heard since it was called last, closed ones among them, if that was long
// enough ago. What is there is told of at once.
func (l *loop) releaseQuiet() {
	now := time.Now()
	if now.Sub(l.released) < gatherTime {
		return
	}
	l.released = now
	l.gathered = slices.DeleteFunc(l.gathered, func(g *leg) bool {
		if !g.quiet {
			g.quiet = true
			return false
		}
		g.gathered, g.run = false, 0
		_ = unix.SetsockoptInt(g.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1) // takes what was taken before, if it is open
		return true
	})
}
