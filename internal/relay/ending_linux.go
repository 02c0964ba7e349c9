//go:build !relay_goroutines

package relay

import (
	"time"
)

// End asks for the end of the session and returns at once. The error reaches the client between two messages of the
// server; where none ends within a second the connections are closed without it. A later call replaces an ending that is
// still waiting for the session to be idle; nothing else is ever taken back.
func (r *Relay) End(e Ending) {
	r.loop.post(func() { r.end(&e) })
}

func (r *Relay) end(e *Ending) {
	if r.phase == lingering && !e.Idle { // a client that reads nothing must not hold it up
		r.after(lingerTime, r.finish)
	}
	if r.phase != running || r.ending != nil && !r.ending.Idle {
		return
	}
	r.stopTimer()
	r.ending = e
	switch {
	case e.Idle:
		if !e.Deadline.IsZero() {
			now := *e
			now.Idle = false
			r.after(time.Until(e.Deadline), func() { r.end(&now) })
		}
		r.injectWhenIdle()
	case r.down.AtBoundary():
		r.injectNow()
	default:
		r.after(boundaryTime, r.cutOff)
	}
}

// cutOff ends a session whose server is silent in the middle of a message: no error can be told there.
func (r *Relay) cutOff() {
	r.settle(Ended, nil)
	r.cut()
	r.finish()
}

// injectWhenIdle ends the session if nothing is under way, not even the end of an answer to a slow client.
func (r *Relay) injectWhenIdle() {
	if r.phase == running && len(r.client.waiting) == 0 && r.terminate() {
		r.inject()
	}
}

// injectNow ends the session wherever it is. What is under way on the server is cut off first, so that it can neither be
// answered nor be told to the client as done.
func (r *Relay) injectNow() {
	if !r.terminate() {
		r.cut()
	}
	r.inject()
}

// cut resets the server's connection.
func (r *Relay) cut() {
	r.result.Interrupted = true
	r.server.close(true)
}

// terminate closes the server's session in the protocol's own way if nothing is under way.
func (r *Relay) terminate() bool {
	if !waits(&r.up, &r.down) || len(r.server.waiting) > 0 {
		return false
	}
	r.upClosed = true
	r.server.send(terminateMessage) // politeness: the close that follows says the same
	return true
}

// inject sends the error behind the last whole message and says goodbye.
func (r *Relay) inject() {
	r.settle(Ended, nil)
	if r.ending.Error != nil {
		if message, err := r.ending.Error.AppendBinary(nil); err == nil {
			r.notice = true
			r.client.send(message)
			if r.phase == running && len(r.client.waiting) == 0 {
				r.flushed(&r.client)
			}
		}
	}
	r.sayGoodbye()
}
