//go:build !linux || relay_goroutines

package relay

import (
	"time"
)

// past is a deadline that interrupts whatever waits.
var past = time.Unix(1, 0)

// End asks for the end of the session and returns at once. The error reaches the client between two messages of the
// server; where none ends within a second, or the client takes nothing, the connections are closed without it. A later
// call replaces an ending that is still waiting for the session to be idle; nothing else is ever taken back.
func (r *Relay) End(e Ending) {
	r.endMu.Lock()
	defer r.endMu.Unlock()
	if before := r.ending.Load(); before != nil && !before.Idle || r.pumps.Load() == 0 {
		return
	}
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if e.Idle && !e.Deadline.IsZero() {
		now := e
		now.Idle = false
		r.timer = time.AfterFunc(time.Until(e.Deadline), func() { r.End(now) })
	}
	r.ending.Store(&e)
	if !e.Idle {
		// A write that waits for either side must not hold the end up.
		_ = r.cfg.Client.Conn.SetWriteDeadline(time.Now().Add(boundaryTime))
		_ = r.cfg.Server.Conn.SetWriteDeadline(time.Now().Add(boundaryTime))
	}
	_ = r.cfg.Server.Conn.SetReadDeadline(past) // wakes pumpToClient, which acts
}

// interrupted is what pumpToClient does when its read was cut short: end now, or go on reading until it can.
func (r *Relay) interrupted(timeout error) (ended bool, err error) {
	e := r.ending.Load()
	switch {
	case e == nil:
		return false, timeout
	case e.Idle:
		_ = r.cfg.Server.Conn.SetReadDeadline(time.Time{})
		if later := r.ending.Load(); later != e { // asked for more in the meantime: its wake-up may be gone
			_ = r.cfg.Server.Conn.SetReadDeadline(past)
			return false, nil
		}
		return r.injectWhenIdle(e), nil
	case r.down.AtBoundary():
		return r.injectNow(e), nil
	case r.waited:
		return false, timeout
	}
	r.waited = true
	_ = r.cfg.Server.Conn.SetReadDeadline(time.Now().Add(boundaryTime))
	return false, nil
}

// askAgain lets pumpToClient look once more whether the session is idle: what the client has just sent may have made it so,
// and whoever found up taken has given up. The caller does not hold up.
func (r *Relay) askAgain() {
	if e := r.ending.Load(); e == nil || !e.Idle {
		return
	}
	r.endMu.Lock()
	defer r.endMu.Unlock()
	if r.ending.Load().Idle { // else pumpToClient may be waiting for a boundary by the same deadline
		_ = r.cfg.Server.Conn.SetReadDeadline(past)
	}
}

// injectWhenIdle ends the session if nothing is under way.
func (r *Relay) injectWhenIdle(e *Ending) bool {
	return r.terminate() && r.inject(e)
}

// terminate closes the server's session in the protocol's own way if nothing is under way: no bytes on their way to the
// server, no request unanswered, no transaction. Holding the client's direction keeps it so until that is decided.
func (r *Relay) terminate() bool {
	if !r.up.TryLock() {
		return false
	}
	defer r.up.Unlock()
	if !waits(&r.up.walker, &r.down) {
		return false
	}
	r.up.closed = true
	_, _ = r.cfg.Server.Conn.Write(terminateMessage) // politeness: the close that follows says the same
	return true
}

// injectNow ends the session wherever it is. What is under way on the server is cut off first, so that it can neither be
// answered nor be told to the client as done.
func (r *Relay) injectNow(e *Ending) bool {
	if !r.terminate() {
		r.result.Interrupted = r.Busy() // it may be idle, and the client only about to begin
		_ = reset(r.cfg.Server.Conn)
	}
	return r.inject(e)
}

// inject settles the end and sends the error at the boundary where pumpToClient stands. A client that takes nothing is
// closed without it.
func (r *Relay) inject(e *Ending) bool {
	r.settle(Ended, nil) // first: a client that has read the error may close at once
	r.detached.Store(true)
	if e.Error == nil {
		return true
	}
	message, err := e.Error.AppendBinary(nil)
	if err != nil {
		return true
	}
	_ = r.cfg.Client.Conn.SetWriteDeadline(time.Now().Add(boundaryTime))
	if _, err := r.cfg.Client.Conn.Write(message); err != nil {
		_ = drop(r.cfg.Client.Conn)
		return true
	}
	r.result.Notified = true
	return true
}
