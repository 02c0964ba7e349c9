//go:build !relay_goroutines

package relay

import (
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// Relay is one session being relayed. Its methods may be called from anywhere, also after its end; everything else of it
// belongs to the loop.
type Relay struct {
	loop           *loop
	cfg            Config
	client, server leg
	up, down       wire.Walker

	toServer, toClient atomic.Uint64
	busy, detached     atomic.Bool

	phase    phase
	upClosed bool // nothing more is forwarded to the server
	ending   *Ending
	notice   bool // the ending's error was sent, but waits with the client's bytes
	result   Result

	timer *time.Timer
	turn  int // counts timers, so that one that fires late is known
}

// phase is how far a session has come.
type phase uint8

const (
	running phase = iota
	// lingering: the server is gone, and the client has a moment to read the last bytes.
	lingering
	over
)

// newRelay takes both connections. After an error both are closed.
func newRelay(l *loop, cfg Config) (*Relay, error) {
	r := &Relay{loop: l, cfg: cfg}
	err := r.client.attach(r, &r.server, cfg.Client.Conn)
	if err == nil {
		err = r.server.attach(r, &r.client, cfg.Server.Conn)
	}
	if err != nil {
		r.client.abandon(cfg.Client.Conn)
		r.server.abandon(cfg.Server.Conn)
		return nil, err
	}
	r.cfg.Client.Conn, r.cfg.Server.Conn = nil, nil
	return r, nil
}

// begin forwards what was read before, by the login or inside TLS, and only then waits for more: epoll knows nothing of it.
func (r *Relay) begin() {
	r.loop.register(&r.client)
	r.loop.register(&r.server)
	r.beginWith(&r.server, r.cfg.Server.Pending)
	r.beginWith(&r.client, r.cfg.Client.Pending)
	r.cfg.Server.Pending, r.cfg.Client.Pending = nil, nil
	r.client.update()
	r.server.update()
}

// beginWith forwards what was read from one leg.
func (r *Relay) beginWith(g *leg, pending []byte) {
	if len(pending) > 0 && g.fd >= 0 {
		r.forward(g, pending)
	}
	if g.fd >= 0 && !g.ended {
		g.received(g.memory.Rest())
	}
}

// Stats returns the counts of now.
func (r *Relay) Stats() Stats {
	return Stats{ToServer: r.toServer.Load(), ToClient: r.toClient.Load()}
}

// Busy reports whether something is under way: a request without its answer, or a transaction. Between two looks it may have
// been otherwise.
func (r *Relay) Busy() bool { return r.busy.Load() }

// Detached reports whether the session is done with its server: nothing passes between that and the client any more, even if
// the client is still reading what it was told last.
func (r *Relay) Detached() bool { return r.detached.Load() }

// forward passes a piece from one leg to the other.
func (r *Relay) forward(from *leg, piece []byte) {
	if from == &r.client {
		r.forwardToServer(piece)
	} else {
		r.forwardToClient(piece)
	}
	if busy := !waits(&r.up, &r.down); busy != r.busy.Load() {
		r.busy.Store(busy)
	}
}

// forwardToServer drops the piece once the session is closed: a client that still sends must be read to its end, for bytes
// left unread would make the kernel reset the connection and take the last message away from the client.
func (r *Relay) forwardToServer(piece []byte) {
	if r.upClosed || r.phase != running {
		return
	}
	if _, err := r.up.Walk(piece); err != nil {
		r.violated(err)
		return
	}
	r.toServer.Add(uint64(len(piece)))
	r.server.send(piece)
	if r.ending != nil && r.ending.Idle { // the piece may have completed a message that nothing answers
		r.injectWhenIdle()
	}
}

// forwardToClient sends as much of the piece as goes before the end of the session.
func (r *Relay) forwardToClient(piece []byte) {
	if r.phase != running {
		return
	}
	boundary, err := r.down.Walk(piece)
	if err != nil {
		r.violated(err)
		return
	}
	cut := r.ending != nil && !r.ending.Idle && boundary >= 0
	if cut {
		piece = piece[:boundary]
	}
	r.toClient.Add(uint64(len(piece)))
	r.client.send(piece)
	switch {
	case r.phase != running || r.ending == nil:
	case cut:
		r.injectNow()
	case r.ending.Idle:
		r.injectWhenIdle()
	}
}

// readEnded is told that a leg will say nothing more; err is nil for a proper end.
func (r *Relay) readEnded(g *leg, err error) {
	switch {
	case r.phase == over:
	case g == &r.client && r.phase == lingering:
		r.finish()
	case g == &r.client:
		cause, causeErr := clientCause(err, &r.up)
		r.settle(cause, causeErr)
		if err != nil { // nobody is left to be answered
			r.finish()
			return
		}
		r.upClosed = true
		r.server.closeWrite() // the server may still answer
	case err != nil:
		r.settle(ServerFailed, err)
		r.sayGoodbye()
	default:
		r.settle(serverCause(&r.up), nil)
		r.sayGoodbye()
	}
}

// writeEnded is told that a leg takes nothing more. A server may have said why before, so it is read on; a client that
// is gone ends the session.
func (r *Relay) writeEnded(g *leg, err error) {
	if g == &r.server {
		r.upClosed = true
		return
	}
	cause, causeErr := clientCause(err, &r.up)
	r.settle(cause, causeErr)
	r.finish()
}

// violated ends a session whose framing broke: nothing of it can be trusted any more.
func (r *Relay) violated(err error) {
	r.settle(Violation, err)
	r.finish()
}

// flushed is told that a leg has nothing waiting any more.
func (r *Relay) flushed(g *leg) {
	if r.ending != nil && r.ending.Idle && !r.notice { // it may have waited for that
		r.injectWhenIdle()
	}
	if g != &r.client {
		return
	}
	if r.notice {
		r.notice, r.result.Notified = false, true
	}
	switch {
	case r.phase != lingering:
	case r.client.ended:
		r.finish()
	default:
		r.after(lingerTime, r.finish)
	}
}

// sayGoodbye closes the server's side and leaves the client a moment to read to the end. The moment begins when nothing waits
// for the client any more, except that a session which the program ends is not held up by a client that reads nothing.
func (r *Relay) sayGoodbye() {
	if r.phase != running {
		return
	}
	r.phase, r.upClosed = lingering, true
	r.server.close(false)
	r.detached.Store(true)
	waited := len(r.client.waiting) > 0
	r.client.closeWrite() // flushed is told unless something waits still
	if len(r.client.waiting) > 0 && (r.result.Cause == Ended || !waited) {
		r.after(lingerTime, r.finish)
	}
	r.client.update()
}

// settle notes why the session ended; the first cause counts.
func (r *Relay) settle(cause Cause, err error) {
	if r.result.Cause != 0 {
		return
	}
	r.result.Cause, r.result.Err = cause, err
	if r.cfg.Lost != nil && lost(cause, r.up.Terminated(), r.down.Last()) {
		r.cfg.Lost()
	}
}

// finish closes what is left and reports the result.
func (r *Relay) finish() {
	if r.phase == over {
		return
	}
	r.phase = over
	r.stopTimer()
	r.client.close(false)
	r.server.close(false)
	r.detached.Store(true)
	r.loop.sessions.Add(-1)
	r.result.Stats = r.Stats()
	go r.cfg.Ended(r.result) // it may wait, for a log that is full; the loop must not
	r.loop.started = true
}

// after calls f on the loop once d has passed. There is one timer: a new one replaces it.
func (r *Relay) after(d time.Duration, f func()) {
	r.stopTimer()
	turn := r.turn
	r.timer = time.AfterFunc(d, func() {
		r.loop.post(func() {
			if r.turn == turn && r.phase != over {
				f()
			}
		})
	})
}

func (r *Relay) stopTimer() {
	r.turn++
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}
