package backends

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestDiagnose(t *testing.T) {
	dial := func(stage string, err error) error { return &DialError{Backend: "db1", Stage: stage, Err: err} }
	op := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	server := func(code, message string) error {
		return fmt.Errorf("log in: %w", &pgconn.PgError{Severity: "FATAL", Code: code, Message: message})
	}
	const soft, hard = true, false
	for _, c := range []struct {
		err    error
		status Status
		soft   bool
		detail string
	}{
		{dial(StageConnect, op(syscall.ECONNREFUSED)), Down, hard, "connection refused"},
		{dial(StageConnect, op(syscall.EHOSTUNREACH)), Down, hard, "no route to host"},
		{dial(StageConnect, op(syscall.ENOENT)), Down, hard, "no socket"},
		{dial(StageConnect, op(syscall.ECONNRESET)), Down, soft, "closes connections"},
		{dial(StageConnect, op(syscall.ETIMEDOUT)), Silent, soft, "no answer"},
		{dial(StageConnect, context.DeadlineExceeded), Silent, soft, "no answer"},
		{dial(StageConnect, op(syscall.EMFILE)), Blind, hard, "the proxy cannot open a connection"},
		{dial(StageResolve, op(&net.DNSError{Err: "i/o timeout", IsTimeout: true})), Blind, hard, "its address cannot be looked up"},
		{dial(StageResolve, op(&net.DNSError{Err: "no such host", IsNotFound: true})), Blind, hard, "its address cannot be looked up"},
		{dial(StageSSLRequest, errNoTLS), Misconfigured, hard, "does not offer TLS"},
		{dial(StageSSLRequest, fmt.Errorf("%w: 0x48", errNotPostgreSQL)), Misconfigured, hard, "is not a PostgreSQL server"},
		{dial(StageSSLRequest, errRefusedTLS), Failing, hard, "answers the request for TLS with an error"},
		{dial(StageSSLRequest, fmt.Errorf("read the answer: %w", io.EOF)), Down, soft, "closes connections"},
		{dial(StageSSLRequest, context.DeadlineExceeded), Silent, soft, "no answer"},
		{dial(StageTLS, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), Misconfigured, hard, "its certificate is not trusted"},
		{dial(StageTLS, &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}}}), Misconfigured, hard, "its certificate is for another name"},
		{dial(StageTLS, errors.New("tls: handshake failure")), Misconfigured, hard, "the TLS handshake fails"},
		{dial(StageTLS, io.EOF), Down, soft, "closes connections"},

		{server("57P03", "the database system is starting up"), Starting, hard, "starting up"},
		{server("57P03", "das Datenbanksystem startet"), Starting, hard, "accepts no sessions now"},
		{server("57P03", "the database system is "+strings.Repeat("x", 100)), Starting, hard, "accepts no sessions now"},
		{server("53300", "sorry, too many clients already"), Saturated, hard, "has no connection left for the monitor"},
		{server("28P01", "password authentication failed"), Misconfigured, hard, "refuses the monitor's login (28P01)"},
		{server("28000", "no pg_hba.conf entry"), Misconfigured, hard, "refuses the monitor's login (28000)"},
		{server("3D000", "database does not exist"), Misconfigured, hard, "lacks the monitor's database (3D000)"},
		{server("42501", "permission denied"), Misconfigured, hard, "refuses the monitor's query (42501)"},
		{server("57014", "canceling statement due to statement timeout"), Silent, soft, "no answer"},
		{server("57P01", "terminating connection"), Down, soft, "closes connections"},
		{server("57P02", "crash of another server process"), Down, soft, "closes connections"},
		{server("53200", "out of memory"), Failing, hard, "answers with an error (53200)"},
		{server("XX000", "internal"), Failing, hard, "answers with an error (XX000)"},

		{context.DeadlineExceeded, Silent, soft, "no answer"},
		{fmt.Errorf("receive: %w", io.ErrUnexpectedEOF), Down, soft, "closes connections"},
		{op(syscall.ECONNRESET), Down, soft, "closes connections"},
		{errors.New("invalid SCRAM server-signature"), Misconfigured, hard, "the monitor cannot log in"},
		{fmt.Errorf("%w: service", errEnvironment), Blind, hard, "the proxy's environment keeps the monitor from logging in"},
	} {
		f := diagnose(c.err)
		if f.status != c.status || f.soft != c.soft || f.detail != c.detail {
			t.Errorf("%v: %s (soft %t) %q, want %s (soft %t) %q", c.err, f.status, f.soft, f.detail, c.status, c.soft, c.detail)
		}
		if f.err == nil {
			t.Errorf("%v: the error is lost", c.err)
		}
	}
}
