package backends

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// fault is why a question has no answer.
type fault struct {
	// status is what the fault says of the server: Silent and Down need to be confirmed, as soft tells.
	status Status
	// soft is a fault that only counts when it is repeated: the server did not answer, or the connection broke.
	soft bool
	// detail is fit for a client. The rest of the story is in err, which is not.
	detail string
	err    error
}

// gone reports a server that said itself, or whose system said, that it takes no sessions.
func (f *fault) gone() bool { return !f.soft && (f.status == Down || f.status == Starting) }

// diagnose tells what an error of a login or a query says about the server.
func diagnose(err error) *fault {
	var dial *DialError
	var server *pgconn.PgError
	var netErr net.Error
	switch {
	case errors.As(err, &dial):
		return diagnoseDial(dial, err)
	case errors.As(err, &server):
		return diagnoseServer(server)
	case pgconn.Timeout(err), errors.As(err, &netErr) && netErr.Timeout():
		return &fault{status: Silent, soft: true, detail: noAnswer, err: err}
	case errors.Is(err, errEnvironment):
		return &fault{status: Blind, detail: "the proxy's environment keeps the monitor from logging in", err: err}
	case broken(err):
		return &fault{status: Down, soft: true, detail: breaks, err: err}
	default: // the server's answer to the login, or its certificate, is not what the monitor accepts
		return &fault{status: Misconfigured, detail: "the monitor cannot log in", err: err}
	}
}

const (
	noAnswer = "no answer"
	breaks   = "closes connections"
)

func diagnoseDial(dial *DialError, err error) *fault {
	var certificate *tls.CertificateVerificationError
	switch {
	case dial.Stage == StageResolve:
		return &fault{status: Blind, detail: "its address cannot be looked up", err: err}
	case dial.Local():
		return &fault{status: Blind, detail: "the proxy cannot open a connection", err: err}
	case dial.Timeout():
		return &fault{status: Silent, soft: true, detail: noAnswer, err: err}
	case dial.Refused():
		return &fault{status: Down, detail: refusal(dial), err: err}
	case errors.Is(err, errRefusedTLS):
		return &fault{status: Failing, detail: "answers the request for TLS with an error", err: err}
	case errors.Is(err, errNoTLS):
		return &fault{status: Misconfigured, detail: "does not offer TLS", err: err}
	case errors.Is(err, errNotPostgreSQL):
		return &fault{status: Misconfigured, detail: "is not a PostgreSQL server", err: err}
	case errors.As(err, new(x509.HostnameError)):
		return &fault{status: Misconfigured, detail: "its certificate is for another name", err: err}
	case errors.As(err, &certificate):
		return &fault{status: Misconfigured, detail: "its certificate is not trusted", err: err}
	case broken(err):
		return &fault{status: Down, soft: true, detail: breaks, err: err}
	default:
		return &fault{status: Misconfigured, detail: "the TLS handshake fails", err: err}
	}
}

// refusal says how a connection was refused.
func refusal(dial *DialError) string {
	var errno syscall.Errno
	if !errors.As(dial.Err, &errno) || errno == syscall.ENOENT {
		return "no socket"
	}
	return errno.Error()
}

// diagnoseServer reads the SQLSTATE of an error that the server sent (manual, appendix A). Whatever it is but "cannot
// connect now", the server is alive (fe-connect.c, internal_ping).
func diagnoseServer(server *pgconn.PgError) *fault {
	f := &fault{status: Failing, detail: fmt.Sprintf("answers with an error (%s)", server.Code), err: server}
	switch code := server.Code; {
	case code == "57P03": // cannot_connect_now
		f.status, f.detail = Starting, notNow(server.Message)
	case code == "53300": // too_many_connections
		f.status, f.detail = Saturated, "has no connection left for the monitor"
	case code == "57014": // query_canceled, by our statement_timeout
		f.status, f.soft, f.detail = Silent, true, noAnswer
	case strings.HasPrefix(code, "57P"): // the session was ended, the server perhaps too
		f.status, f.soft, f.detail = Down, true, breaks
	case strings.HasPrefix(code, "28"):
		f.status, f.detail = Misconfigured, fmt.Sprintf("refuses the monitor's login (%s)", code)
	case code == "3D000":
		f.status, f.detail = Misconfigured, "lacks the monitor's database (3D000)"
	case strings.HasPrefix(code, "42"):
		f.status, f.detail = Misconfigured, fmt.Sprintf("refuses the monitor's query (%s)", code)
	}
	return f
}

// notNow shortens the messages that go with 57P03 in a server that speaks English (postmaster.c, canAcceptConnections).
func notNow(message string) string {
	if what, ok := strings.CutPrefix(message, "the database system is "); ok && len(what) < 60 {
		return what
	}
	return "accepts no sessions now"
}

// broken reports an error of the connection itself.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.As(err, new(syscall.Errno))
}
