package backends

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/socket"
)

// Conn is a connection to a server that has not been sent its startup packet. The embedded net.Conn is a *socket.Socket,
// or a *tls.Conn over one.
type Conn struct {
	net.Conn
	// Leaf is the certificate that the server presented, to be verified or not as the target says; nil without TLS. SCRAM's
	// channel binding is to this one (RFC 5929, section 4).
	Leaf *x509.Certificate
}

// Dial connects to a server on behalf of origin and, where the target says so, negotiates TLS. The context bounds all of it
// and nothing after it: the connection comes without deadlines and is the caller's. An error is always a *DialError.
func Dial(ctx context.Context, t Target, origin Origin) (*Conn, error) {
	sock, err := connect(ctx, t)
	if err != nil {
		return nil, err
	}
	if t.SendProxyProtocol {
		if err := origin.announce(sock); err != nil {
			_ = sock.Close()
			return nil, &DialError{Backend: t.Name, Stage: StageProxyHeader, Err: err}
		}
	}
	conn := &Conn{Conn: sock}
	if t.TLS == TLSOff || t.Network == "unix" {
		return conn, nil
	}
	// One deadline for reads and writes of both stages, set when the context ends, so that there is none to clear.
	stop := context.AfterFunc(ctx, func() { _ = sock.SetDeadline(time.Unix(1, 0)) })
	stage, err := conn.startTLS(sock, t)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = sock.Close()
		return nil, &DialError{Backend: t.Name, Stage: stage, Err: err}
	}
	return conn, nil
}

// connect resolves the target's name and connects to the first address that answers.
func connect(ctx context.Context, t Target) (*socket.Socket, error) {
	if t.Network != "tcp" && t.Network != "unix" {
		return nil, &DialError{Backend: t.Name, Stage: StageConnect, Err: net.UnknownNetworkError(t.Network)}
	}
	dialer := net.Dialer{KeepAlive: -1} // package socket sets it
	raw, err := dialer.DialContext(ctx, t.Network, t.Address)
	if err != nil {
		stage := StageConnect
		if errors.As(err, new(*net.DNSError)) {
			stage = StageResolve
		}
		return nil, &DialError{Backend: t.Name, Stage: stage, Err: err}
	}
	sock, err := socket.New(raw)
	if err != nil {
		_ = raw.Close()
		return nil, &DialError{Backend: t.Name, Stage: StageConnect, Err: err}
	}
	return sock, nil
}

// startTLS asks for TLS and puts it on the socket. It returns the stage it came to.
func (c *Conn) startTLS(sock *socket.Socket, t Target) (stage string, err error) {
	if err := requestTLS(sock); err != nil {
		return StageSSLRequest, err
	}
	sock.StartTLS()
	conn := tls.Client(sock, tlsConfig(t))
	if err := conn.Handshake(); err != nil {
		return StageTLS, err
	}
	c.Conn, c.Leaf = conn, conn.ConnectionState().PeerCertificates[0]
	return StageTLS, nil
}

// sslRequest is the packet of that name (manual, "Message Formats").
var sslRequest = [8]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

// errNoTLS is a server's 'N'.
var errNoTLS = errors.New("server does not offer TLS")

// requestTLS sends SSLRequest and reads the answer: exactly one byte, so that whatever somebody on the way put behind it is
// taken for TLS and breaks the handshake, instead of being taken for the server's later (CVE-2021-23222; manual, "SSL Session Encryption").
func requestTLS(conn io.ReadWriter) error {
	if _, err := conn.Write(sslRequest[:]); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch answer[0] {
	case 'S':
		return nil
	case 'N':
		return errNoTLS
	case 'E': // nobody has proved to be the server yet, so its text is not shown, as in libpq
		return errRefusedTLS
	default:
		return fmt.Errorf("%w: 0x%02x", errNotPostgreSQL, answer[0])
	}
}
