package tlsfront

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/socket"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Config is how a listener treats its clients. It is read only once in use.
type Config struct {
	// TLS is a finished configuration, from ServerConfig. It is required.
	TLS *tls.Config
	// Challenges answers handshakes of ACME's challenge tls-alpn-01, from ACME.Challenges; nil is none. They come as direct
	// TLS and end with the handshake.
	Challenges *tls.Config
	// ClientCertificates checks the certificates of clients; nil asks for none. TLS must ask (ClientCertificates.Ask).
	ClientCertificates *ClientCertificates
	// PlaintextAllowed lets a StartupMessage through that came without TLS. It is for loopback addresses and unix sockets:
	// elsewhere a client that fails over TLS would silently retry in the clear.
	PlaintextAllowed bool
	// ProxyProtocolFrom are the peers that speak for others: from each a PROXY header, version 1 or 2, is required and
	// believed. From everybody else it is no opening packet and refused.
	ProxyProtocolFrom Peers
	// LoginTimeout bounds a login from accept to AuthenticationOk; zero is 15 s.
	LoginTimeout time.Duration
	// Gate is asked for each connection before anything is done for it; nil lets everybody in.
	Gate *admission.Gate
	// Logger gets one line for each connection that ended before it was a client; nil is silent.
	Logger *slog.Logger
	// Observe, where it is not nil, is told of each connection once its opening is over. It must return at once, and may be
	// called for several connections at a time.
	Observe func(Negotiation)
}

const defaultLoginTimeout = 15 * time.Second

func (c *Config) loginTimeout() time.Duration {
	if c.LoginTimeout > 0 {
		return c.LoginTimeout
	}
	return defaultLoginTimeout
}

func (c *Config) logger() *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// Handler takes a client over: from the call on, its connection is the handler's to close, and the listener never touches
// it again. The context ends when the program wants connections to end at once. The handler runs in a goroutine of its
// own, which Serve waits for.
type Handler func(ctx context.Context, c *Client)

// Serve accepts connections from ln and hands each one that opens properly to handle, until ln is closed; then it waits
// for the connections still in negotiation or in handle, and returns nil. The end of ctx closes connections that are
// still negotiating, but not ln, whose owner closes it. Errors of accept are retried with a growing pause, as net/http does; an error is
// returned only when the listener is broken for good.
func (c *Config) Serve(ctx context.Context, ln net.Listener, handle Handler) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	var pause time.Duration
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			connections.Go(func() { c.serveConn(ctx, conn, handle) })
		case errors.Is(err, net.ErrClosed):
			return nil
		case temporary(err):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			level := c.Gate.LogLevel(slog.LevelError, "accept", netip.Addr{})
			c.logger().Log(ctx, level, "accept failed", "listener", ln.Addr().String(), "err", err, "retry_in", pause)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
		default:
			c.logger().Error("listener broken", "listener", ln.Addr().String(), "err", err)
			return err
		}
	}
}

// retried are errors after which accept may work again (accept(2)) and that package syscall does not call temporary: no
// memory, and errors of the connection or of the network that accept merely passes on.
var retried = []error{
	syscall.ENOMEM, syscall.ENOBUFS, syscall.EPROTO, syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN,
	syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.ENETUNREACH, syscall.EPERM,
}

// temporary reports whether accept may work again: out of descriptors or memory, or a connection gone before it was
// accepted.
func temporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary() ||
		slices.ContainsFunc(retried, func(e error) bool { return errors.Is(err, e) })
}

// serveConn turns one connection into a client and hands it over.
func (c *Config) serveConn(ctx context.Context, conn net.Conn, handle Handler) {
	began := time.Now()
	deadline := began.Add(c.loginTimeout())
	sock, err := socket.New(conn)
	if err != nil {
		c.logger().Debug("connection dropped", "client", conn.RemoteAddr().String(), "err", err)
		_ = conn.Close()
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = sock.Close() })
	n := negotiation{
		config: c, socket: sock, deadline: deadline, address: conn.RemoteAddr(), destination: conn.LocalAddr(),
	}
	client, err := n.run(ctx)
	if !stop() {
		err = net.ErrClosed // by us
	}
	n.observe(began, client, err)
	if err != nil {
		n.logEnd(err)
		_ = n.refuse(err)
		n.visit.Leave()
		return
	}
	handle(ctx, client)
}

// logEnd tells why a connection never became a client: quietly for one that was closed or merely looked in, as health
// checks and port scanners do, for a challenge, for one of very many, and beyond what strangers may fill the log with.
func (n *negotiation) logEnd(err error) {
	level := slog.LevelDebug
	switch outcome := n.outcome(nil, err); outcome {
	case OutcomeLeft, OutcomeChallenge, OutcomeFlood:
	default:
		level = n.config.Gate.LogLevel(slog.LevelWarn, string(outcome), admission.AddrOf(n.address))
	}
	// A peer's bytes can stand in the text (names of protocols in a handshake): made visible by the log, and cut.
	text := err.Error()[:min(len(err.Error()), 200)]
	n.config.logger().Log(context.Background(), level, "connection refused",
		"client", n.address.String(), "stage", n.stage, "err", text)
}

// refuse answers err where the protocol has an answer to it, and closes the connection.
func (n *negotiation) refuse(err error) error {
	if answer := refusal(err); answer != nil {
		_, _ = n.conn().Write(answer)
	}
	return n.conn().Close()
}

// refusal is the message for an error of the negotiation: nil for one that deserves no answer. Bytes that are not
// PostgreSQL's protocol at all get none, so that nothing a stranger sent can be reflected at another service.
func refusal(err error) []byte {
	var version *wire.VersionError
	var response *wire.ErrorResponse
	switch {
	case errors.As(err, &response):
	case errors.As(err, &version):
		response = &wire.ErrorResponse{
			Code:    wire.FeatureNotSupported,
			Message: version.Error() + ": pgreplicaproxy supports protocol 3",
			Hint:    "Use a client of PostgreSQL 7.4 or newer.",
		}
		if version.Version.Major() < 3 {
			return response.AppendLegacy(nil)
		}
	case errors.Is(err, wire.ErrMalformed):
		response = &wire.ErrorResponse{Code: wire.ProtocolViolation, Message: "invalid startup packet"}
	default:
		return nil
	}
	message, err := response.AppendBinary(nil)
	if err != nil {
		return nil
	}
	return message
}
