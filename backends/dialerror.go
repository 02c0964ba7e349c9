package backends

import (
	"errors"
	"net"
	"syscall"
)

// The stages of a dial, as in DialError.Stage.
const (
	StageResolve     = "resolve"      // looking up the address of a name
	StageConnect     = "connect"      // the TCP or unix-domain connection
	StageProxyHeader = "proxy header" // telling whom it is for
	StageSSLRequest  = "ssl request"  // asking for TLS
	StageTLS         = "tls"          // the handshake, with the server's certificate
)

// What a server may answer to SSLRequest instead of 'S', beside errNoTLS.
var (
	errRefusedTLS    = errors.New("server answered with an error")
	errNotPostgreSQL = errors.New("not a PostgreSQL server: unexpected answer")
)

// DialError is an error of [Dial]: which server, how far it came, and what happened.
type DialError struct {
	// Backend is the target's name.
	Backend string
	// Stage is one of the Stage constants.
	Stage string
	Err   error
}

// Error reads like "dial db2: tls: certificate has expired".
func (e *DialError) Error() string {
	return "dial " + e.Backend + ": " + e.Stage + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// Local reports whether the dial failed for want of something on this side: file descriptors, memory, a free port, the
// right to open the socket, or an answer of the resolver. It says nothing about the server.
func (e *DialError) Local() bool {
	if e.Stage == StageResolve {
		return true
	}
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL, syscall.EACCES, syscall.EPERM,
	} {
		if errors.Is(e.Err, errno) {
			return true
		}
	}
	return errors.As(e.Err, new(net.UnknownNetworkError))
}

// Refused reports whether the server's system answered that nobody listens, or its network that it is not there. A unix
// socket that does not exist counts.
func (e *DialError) Refused() bool {
	for _, errno := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENOENT,
	} {
		if e.Stage == StageConnect && errors.Is(e.Err, errno) {
			return true
		}
	}
	return false
}

// Timeout reports whether the time was over before the server was done.
func (e *DialError) Timeout() bool {
	var netErr net.Error
	return errors.As(e.Err, &netErr) && netErr.Timeout()
}
