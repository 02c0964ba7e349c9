package relay

import (
	"time"
)

// boundaryTime is how long the end of a session may wait for a message of the server to be complete, and for the client
// to take what was sent before.
const boundaryTime = time.Second

// terminateMessage is a Terminate message ("Message Formats").
var terminateMessage = []byte{'X', 0, 0, 0, 4}

// past is a deadline that interrupts whatever waits.
var past = time.Unix(1, 0)

// End asks for the end of the session and returns at once. The error reaches the client between two messages of the
// server; where none ends within a second, or the client takes nothing, the connections are closed without it. A later
// call replaces an ending that is still waiting for the session to be idle; nothing else is ever taken back.
func (r *Relay) End(e Ending) {
	r.endMu.Lock()
	defer r.endMu.Unlock()
	if before := r.ending.Load(); before != nil && !before.Idle {
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
	if !r.idle() {
		return false
	}
	r.up.closed = true
	_, _ = r.cfg.Server.Conn.Write(terminateMessage) // politeness: the close that follows says the same
	return true
}

// idle reports whether the session waits for its client. The caller holds up and is pumpToClient.
func (r *Relay) idle() bool {
	status := r.down.Status()
	return r.down.AtBoundary() && (status == 'I' || status == 0) &&
		r.up.walker.AtBoundary() && !r.up.walker.Open() && r.up.walker.Requests() <= r.down.Answers()
}

// injectNow ends the session wherever it is. What is under way on the server is cut off first, so that it can neither be
// answered nor be told to the client as done.
func (r *Relay) injectNow(e *Ending) bool {
	if !r.terminate() {
		_ = reset(r.cfg.Server.Conn)
	}
	return r.inject(e)
}

// inject sends the error at the boundary where pumpToClient stands and settles the end.
func (r *Relay) inject(e *Ending) bool {
	notified := false
	if e.Error != nil {
		if message, err := e.Error.AppendBinary(nil); err == nil {
			_, err = r.cfg.Client.Conn.Write(message)
			notified = err == nil
		}
	}
	r.settle(Ended, nil, notified)
	return true
}
