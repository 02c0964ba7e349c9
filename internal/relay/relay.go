package relay

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// Leg is one side of a session as the login leaves it, standing behind the server's first ReadyForQuery.
type Leg struct {
	// Conn is a *socket.Socket, or a *tls.Conn over one. It has no deadlines.
	Conn net.Conn
	// Pending was read from Conn and not yet forwarded. It begins at a message boundary and goes out first.
	Pending []byte
}

// Config is one session to relay.
type Config struct {
	Client, Server Leg
	// Ended is called once, when both connections are closed. It must not block for long.
	Ended func(Result)
}

// Cause tells why a session ended.
type Cause uint8

// The causes. The zero value is none of them.
const (
	// ClientClosed is the ordinary end: the client closed its connection.
	ClientClosed Cause = iota + 1
	// ServerClosed is a server that closed its connection first, in most cases after an error message of its own.
	ServerClosed
	// ClientFailed is an error on the client's connection; Result.Err tells which.
	ClientFailed
	// ServerFailed is an error on the server's connection.
	ServerFailed
	// Violation is a stream that broke the protocol's framing.
	Violation
	// Ended is an end by [Relay.End].
	Ended
)

var causeNames = [...]string{
	ClientClosed: "client closed", ServerClosed: "server closed", ClientFailed: "client failed",
	ServerFailed: "server failed", Violation: "protocol violation", Ended: "ended",
}

// String returns the cause in words fit for a log.
func (c Cause) String() string { return causeNames[c] }

// Result is how a session ended.
type Result struct {
	Cause Cause
	// Err is the error behind ClientFailed, ServerFailed and Violation.
	Err error
	// Notified is true when the error of [Relay.End] was written to the client.
	Notified bool
	Stats
}

// Stats are the counts of a session so far, in bytes of the protocol (without TLS).
type Stats struct {
	ToServer, ToClient uint64
}

// Ending is a wish to end a session.
type Ending struct {
	// Error is what the client is told. It must not be changed afterwards.
	Error *wire.ErrorResponse
	// Idle waits for the session to be idle: outside a transaction, with no request unanswered. At Deadline, where it is
	// set, the session ends all the same.
	Idle     bool
	Deadline time.Time
}

// Relay is one session being relayed. Its methods may be called from anywhere, also after its end.
type Relay struct {
	cfg Config
	// toServer and toClient count bytes that were written.
	toServer, toClient atomic.Uint64

	ending atomic.Pointer[Ending]
	timer  *time.Timer // of an idle ending with a deadline; guarded by endMu
	endMu  sync.Mutex

	// up guards the client's direction: its walker, and the decision that nothing more is forwarded to the server.
	up struct {
		sync.Mutex
		walker wire.Walker
		closed bool
	}
	// down is the server's direction, for the goroutine that pumps it alone.
	down wire.Walker
	// waited is true once the end of the session has waited for a boundary; pumpToClient's too.
	waited bool

	pumps  atomic.Int32 // pumps still running
	result Result
	once   sync.Once // of result
}

// Start takes over both connections and relays between them. It returns at once; cfg.Ended tells the end.
func Start(cfg Config) *Relay {
	r := &Relay{cfg: cfg}
	r.pumps.Store(2)
	go r.pumpToServer()
	go r.pumpToClient()
	return r
}

// Stats returns the counts of now.
func (r *Relay) Stats() Stats {
	return Stats{ToServer: r.toServer.Load(), ToClient: r.toClient.Load()}
}

// settle notes why the session ended; the first cause counts.
func (r *Relay) settle(cause Cause, err error, notified bool) {
	r.once.Do(func() { r.result = Result{Cause: cause, Err: err, Notified: notified} })
}

// leave ends a pump; the last one closes what is left and reports the result.
func (r *Relay) leave() {
	if r.pumps.Add(-1) > 0 {
		return
	}
	_ = r.cfg.Client.Conn.Close() // nothing is left to lose: both directions have ended
	_ = r.cfg.Server.Conn.Close()
	r.endMu.Lock()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.endMu.Unlock()
	r.result.Stats = r.Stats()
	r.cfg.Ended(r.result)
}
