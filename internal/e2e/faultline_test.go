package e2e

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// line is a way through which connections pass, and on which faults can be made: a TCP relay on loopback. What it is told
// holds for connections that are open and for new ones.
type line struct {
	address  string
	listener net.Listener
	dial     func() (net.Conn, error)

	mu    sync.Mutex
	fault lineFault
	turn  chan struct{} // closed and renewed when the fault changes
	pairs map[*linePair]struct{}
	mute  int // pairs whose server has not said a thing yet
	mutes int // the most of them at a time
	work  sync.WaitGroup
}

// lineFault is what is wrong with a line. The zero value is nothing.
type lineFault struct {
	// silent passes nothing on, and accepts and keeps connections all the same: the other side is frozen or cut off.
	silent bool
	// refuse resets new connections.
	refuse bool
	// delay is how long each piece takes.
	delay time.Duration
	// piece is the most that is passed on at once; 0 for no limit.
	piece int
	// cutAfter, when it is not 0, lets so many bytes pass from the server to each client and then resets the connection to
	// the client, or closes it where cleanly is true.
	cutAfter int
	cleanly  bool
}

// linePair is one connection and where it leads to.
type linePair struct {
	near, far net.Conn
	passed    atomic.Int64 // bytes from far to near since the fault was made
}

// startLine opens a way to a server until the end of the test.
func startLine(t *testing.T, to *pgcluster.Server) *line {
	t.Helper()
	return startLineTo(t, func() (net.Conn, error) { return net.Dial("tcp", serverAddress(to)) })
}

// startLineTo opens a way to wherever dial connects.
func startLineTo(t *testing.T, dial func() (net.Conn, error)) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startLineOn(t, listener, dial)
}

// startLineOn is startLineTo with a listener, which it closes in the end.
func startLineOn(t *testing.T, listener net.Listener, dial func() (net.Conn, error)) *line {
	t.Helper()
	l := &line{
		address: listener.Addr().String(), listener: listener, dial: dial,
		turn: make(chan struct{}), pairs: make(map[*linePair]struct{}),
	}
	l.work.Go(l.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		l.set(lineFault{})
		l.reset()
		l.work.Wait()
	})
	return l
}

func (l *line) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		if l.now().refuse {
			abort(near)
			continue
		}
		l.work.Go(func() { l.serve(near) })
	}
}

// serve passes one connection on, both ways, until either side ends.
func (l *line) serve(near net.Conn) {
	far, err := l.dial()
	if err != nil {
		abort(near)
		return
	}
	pair := &linePair{near: near, far: far}
	l.mu.Lock()
	l.pairs[pair] = struct{}{}
	l.mute++
	l.mutes = max(l.mutes, l.mute)
	l.mu.Unlock()
	var ways sync.WaitGroup
	ways.Go(func() { l.pass(pair, far, near, false) })
	ways.Go(func() { l.pass(pair, near, far, true) })
	ways.Wait()
	l.mu.Lock()
	delete(l.pairs, pair)
	l.mu.Unlock()
	_ = near.Close()
	_ = far.Close()
}

// pass copies one way, with what is wrong with the line at each moment.
func (l *line) pass(pair *linePair, to, from net.Conn, toClient bool) {
	buf := make([]byte, 32<<10)
	for first := toClient; ; first = false {
		n, err := from.Read(buf)
		if first {
			l.spoken()
		}
		for rest := buf[:n]; len(rest) > 0; {
			fault := l.awaitVoice()
			piece := len(rest)
			if fault.piece > 0 {
				piece = min(piece, fault.piece)
			}
			if toClient && fault.cutAfter > 0 {
				piece = min(piece, fault.cutAfter-int(pair.passed.Load()))
			}
			time.Sleep(fault.delay)
			if _, err := to.Write(rest[:piece]); err != nil {
				_ = from.Close()
				return
			}
			rest = rest[piece:]
			if toClient && fault.cutAfter > 0 {
				if int(pair.passed.Add(int64(piece))) >= fault.cutAfter {
					pair.cut(fault.cleanly)
					return
				}
			}
		}
		if err != nil {
			l.awaitVoice()
			if err == io.EOF {
				_ = to.(interface{ CloseWrite() error }).CloseWrite()
			} else {
				abort(to)
			}
			return
		}
	}
}

// spoken notes that the server of a pair has said its first thing, or will say none.
func (l *line) spoken() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute--
}

// cut ends the connection to the client in the middle of whatever passes.
func (p *linePair) cut(cleanly bool) {
	abort(p.far)
	if cleanly {
		_ = p.near.Close()
		return
	}
	abort(p.near)
}

// awaitVoice waits while the line is silent and returns what is wrong with it then.
func (l *line) awaitVoice() lineFault {
	for {
		l.mu.Lock()
		fault, turn := l.fault, l.turn
		l.mu.Unlock()
		if !fault.silent {
			return fault
		}
		<-turn
	}
}

// set says what is wrong with the line from now on.
func (l *line) set(fault lineFault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = fault
	for pair := range l.pairs {
		pair.passed.Store(0)
	}
	close(l.turn)
	l.turn = make(chan struct{})
}

// now is what is wrong with the line.
func (l *line) now() lineFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// reset ends every connection at once, with a reset to both sides.
func (l *line) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pair := range l.pairs {
		abort(pair.near)
		abort(pair.far)
	}
}

// nearPort is the client's port of the connection that leaves the line from a port, 0 if there is none.
func (l *line) nearPort(farPort int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for pair := range l.pairs {
		if localPort(pair.far) == farPort {
			return pair.near.RemoteAddr().(*net.TCPAddr).Port
		}
	}
	return 0
}

func localPort(conn net.Conn) int {
	if address, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		return address.Port
	}
	return 0
}

// abort closes a connection with a reset.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
