package relay

import (
	"errors"
	"io"
	"net"
	"strings"
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
	// Ended is called once, in a goroutine of its own, when both connections are closed.
	Ended func(Result)
	// Lost, where it is not nil, is called when the session ends because its server has ended it: at once, long before Ended
	// where the client has much to read. It must not block.
	Lost func()
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

// Word returns the cause in one word, fit for the label of a metric: "client_closed".
func (c Cause) Word() string { return strings.ReplaceAll(c.String(), " ", "_") }

// Result is how a session ended.
type Result struct {
	Cause Cause
	// Err is the error behind ClientFailed, ServerFailed and Violation.
	Err error
	// Notified is true when the error of [Relay.End] was written to the client.
	Notified bool
	// Interrupted is true when [Relay.End] cut something off that was under way. A server whose client's connection breaks
	// goes on with a query until it has something to say, so whoever can should cancel it.
	Interrupted bool
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
	// Why is the caller's word for its reason, from a closed list. The relay does not look at it.
	Why string
	// Idle waits for the session to be idle: outside a transaction, with no request unanswered. At Deadline, where it is
	// set, the session ends all the same.
	Idle     bool
	Deadline time.Time
}

const (
	// boundaryTime is how long the end of a session may wait for a message of the server to be complete, and for the client
	// to take what was sent before.
	boundaryTime = time.Second
	// lingerTime is how long a client has to read the last bytes and close its side.
	lingerTime = 2 * time.Second
)

// terminateMessage is a Terminate message ("Message Formats").
var terminateMessage = []byte{'X', 0, 0, 0, 4}

// clientCause tells why the client's direction has ended. Many drivers close without TLS's close_notify, and whatever
// follows a Terminate is no failure.
func clientCause(err error, up *wire.Walker) (Cause, error) {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || up.Terminated() {
		return ClientClosed, nil
	}
	return ClientFailed, err
}

// serverCause tells why a server has closed its connection: in most cases because the client has asked it to.
func serverCause(up *wire.Walker) Cause {
	if up.Terminated() {
		return ClientClosed
	}
	return ServerClosed
}

// lost reports whether a session that ends for a cause has lost its server. When the server's last message was an error, not
// followed by ReadyForQuery, many drivers close at once and are seen to before the server is.
func lost(cause Cause, terminated bool, last byte) bool {
	switch cause {
	case ServerClosed, ServerFailed:
		return !terminated
	case ClientClosed, ClientFailed:
		return last == wire.TypeErrorResponse
	default:
		return false
	}
}

// waits reports whether a session waits for its client, as far as the streams tell: outside a transaction, no request
// unanswered, no message half sent.
func waits(up, down *wire.Walker) bool {
	status := down.Status()
	return down.AtBoundary() && (status == 'I' || status == 0) &&
		up.AtBoundary() && !up.Open() && up.Requests() <= down.Answers()
}
