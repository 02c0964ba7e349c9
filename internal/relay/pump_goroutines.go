//go:build !linux || relay_goroutines

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// smallBuffer is what a direction holds while little passes; a read that fills it moves to a large one.
	smallBuffer = 4 << 10
	// largeBuffer is two TLS records; large buffers are shared and held only while much passes.
	largeBuffer = 32 << 10
)

var large = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// buffer is the reading buffer of one direction: small while little passes, large while much does.
type buffer struct {
	small [smallBuffer]byte
	large *[largeBuffer]byte
}

// space returns where the next read goes.
func (b *buffer) space() []byte {
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

// fit chooses the buffer of the next read by the size of this one.
func (b *buffer) fit(n int) {
	switch {
	case b.large == nil && n == smallBuffer:
		b.large = large.Get().(*[largeBuffer]byte)
	case b.large != nil && n < smallBuffer:
		b.release()
	}
}

func (b *buffer) release() {
	if b.large != nil {
		large.Put(b.large)
		b.large = nil
	}
}

// pumpToServer forwards the client's bytes until the client ends, then half-closes the server's side. Once the session
// is closed it reads on and drops what comes, so that unread bytes do not make the kernel reset the connection and take
// the last message away from the client.
func (r *Relay) pumpToServer() {
	defer r.leave()
	var buf buffer
	defer buf.release()
	err := r.forwardToServer(r.cfg.Client.Pending)
	r.cfg.Client.Pending = nil
	for err == nil {
		var n int
		n, err = r.cfg.Client.Conn.Read(buf.space())
		if n > 0 {
			if forwardErr := r.forwardToServer(buf.space()[:n]); forwardErr != nil {
				err = forwardErr
			}
		}
		buf.fit(n)
	}
	r.clientEnded(err)
}

// forwardToServer writes one piece to the server, unless the session has been closed.
func (r *Relay) forwardToServer(piece []byte) error {
	defer r.askAgain() // once up is free
	r.up.Lock()
	defer r.up.Unlock()
	if r.up.closed || len(piece) == 0 {
		return nil
	}
	if _, err := r.up.walker.Walk(piece); err != nil {
		return &pumpError{Violation, err}
	}
	r.terminated.Store(r.up.walker.Terminated())
	if w := &r.up.walker; w.AtBoundary() && !w.Open() {
		r.asked.Store(w.Requests())
	} else {
		r.asked.Store(unsettled)
	}
	if _, err := r.cfg.Server.Conn.Write(piece); err != nil {
		// The server's own direction knows better why, and may still have its last message: let it tell.
		r.up.closed = true
		return nil
	}
	r.toServer.Add(uint64(len(piece)))
	return nil
}

// clientEnded closes what the end of the client's direction closes.
func (r *Relay) clientEnded(err error) {
	var violation *pumpError
	switch {
	case errors.As(err, &violation):
		r.settle(violation.cause, violation.err)
		_ = drop(r.cfg.Server.Conn)
		_ = drop(r.cfg.Client.Conn)
	case errors.Is(err, io.EOF):
		r.settle(ClientClosed, nil)
		_ = closeWrite(r.cfg.Server.Conn) // the server may still answer
	default:
		cause, err := clientCause(err, &r.up.walker)
		r.settle(cause, err)
		_ = drop(r.cfg.Server.Conn) // wakes the other pump
	}
}

// pumpToClient forwards the server's bytes until the server ends or the session is ended.
func (r *Relay) pumpToClient() {
	defer r.leave()
	var buf buffer
	defer buf.release()
	ended, err := r.forwardToClient(r.cfg.Server.Pending)
	r.cfg.Server.Pending = nil
	for err == nil && !ended {
		var n int
		n, err = r.cfg.Server.Conn.Read(buf.space())
		switch {
		case n > 0:
			ended, err = r.forwardToClient(buf.space()[:n])
		case errors.Is(err, os.ErrDeadlineExceeded):
			ended, err = r.interrupted(err)
		}
		buf.fit(n)
	}
	r.serverEnded(ended, err)
}

// forwardToClient writes one piece to the client, or as much of it as goes before the end of the session.
func (r *Relay) forwardToClient(piece []byte) (ended bool, err error) {
	e := r.ending.Load()
	if len(piece) == 0 {
		return false, nil
	}
	if e != nil && !e.Idle && r.down.AtBoundary() {
		return r.injectNow(e), nil
	}
	boundary, err := r.down.Walk(piece)
	if err != nil {
		return false, &pumpError{Violation, err}
	}
	r.said.Store(uint32(r.down.Last()))
	cut := e != nil && !e.Idle && boundary >= 0
	if cut {
		piece = piece[:boundary]
	}
	if _, err := r.cfg.Client.Conn.Write(piece); err != nil {
		return false, &pumpError{ClientFailed, err}
	}
	r.toClient.Add(uint64(len(piece)))
	if status := r.down.Status(); r.down.AtBoundary() && (status == 'I' || status == 0) {
		r.answered.Store(r.down.Answers())
	} else {
		r.answered.Store(unsettled)
	}
	switch e = r.ending.Load(); {
	case cut:
		return r.injectNow(e), nil
	case e != nil && e.Idle:
		return r.injectWhenIdle(e), nil
	}
	return false, nil
}

// serverEnded closes what the end of the server's direction closes. The server's connection goes first: that also frees a
// client's pump which waits to write to it.
func (r *Relay) serverEnded(ended bool, err error) {
	var failed *pumpError
	e := r.ending.Load()
	switch {
	case ended: // inject has settled it
	case e != nil && !e.Idle: // no boundary came in time, or the client took nothing: it gets a close, wherever it stands
		r.result.Interrupted = true
		r.settle(Ended, nil)
	case errors.As(err, &failed):
		r.settle(failed.cause, failed.err)
	case errors.Is(err, io.EOF): // settled below, when the client's direction stands still
	default:
		r.settle(ServerFailed, err)
	}
	_ = drop(r.cfg.Server.Conn)
	r.up.Lock()
	r.up.closed = true
	cause := serverCause(&r.up.walker)
	r.up.Unlock()
	r.settle(cause, nil)
	if errors.As(err, &failed) || errors.Is(err, os.ErrDeadlineExceeded) {
		_ = drop(r.cfg.Client.Conn)
		return
	}
	r.linger() // also behind a server that failed: its last message may say why
}

// linger says goodbye to the client and leaves the other pump to drop what the client still sends.
func (r *Relay) linger() {
	_ = r.cfg.Client.Conn.SetDeadline(time.Now().Add(lingerTime))
	if closeWrite(r.cfg.Client.Conn) != nil {
		_ = drop(r.cfg.Client.Conn)
	}
}

// pumpError is an error whose side is known.
type pumpError struct {
	cause Cause
	err   error
}

func (e *pumpError) Error() string { return e.cause.String() + ": " + e.err.Error() }

// underlying returns the connection below TLS, or conn itself.
func underlying(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return conn
}

// closeWrite ends the sending half: for TLS with close_notify (RFC 8446 section 6.1), then on the socket.
func closeWrite(conn net.Conn) error {
	type closeWriter interface{ CloseWrite() error }
	below := underlying(conn)
	var err error
	if c, ok := conn.(closeWriter); ok && below != conn {
		err = c.CloseWrite() // fails at a peer that has not read for seconds; the end must reach it all the same
	}
	if c, ok := below.(closeWriter); ok {
		return errors.Join(err, c.CloseWrite())
	}
	return conn.Close()
}

// drop closes the socket below, without the close_notify that [closeWrite] sends and that could wait for a peer which
// does not read.
func drop(conn net.Conn) error { return underlying(conn).Close() }

// reset closes the socket below so that nothing more of it is delivered.
func reset(conn net.Conn) error {
	if c, ok := underlying(conn).(interface{ Reset() error }); ok {
		return c.Reset()
	}
	return drop(conn)
}
