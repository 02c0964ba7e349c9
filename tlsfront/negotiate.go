package tlsfront

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/socket"
	"github.com/replicon/pgreplicaproxy/wire"
)

// alpn is the protocol name of PostgreSQL in TLS (IANA registry of ALPN protocol IDs; src/include/libpq/pqcomm.h).
const alpn = "postgresql"

// Answers to negotiation requests ("SSL Session Encryption", "GSSAPI Session Encryption").
var (
	acceptSSL    = []byte{'S'}
	refuseGSSENC = []byte{'N'}
)

var (
	errTLSRequired = &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: "connection requires TLS",
		Hint:    "Connect with sslmode=require, or better sslmode=verify-full.",
	}
	errNoALPN    = errors.New("direct TLS without ALPN protocol " + alpn)
	errInsideTLS = errors.New("negotiation request inside TLS")
	errLateTLS   = errors.New("direct TLS after a GSSENCRequest")
	errChallenge = errors.New("ACME challenge answered")
)

// stageCertificate is the check of the client's certificate.
const stageCertificate = "client certificate"

// negotiation is the opening of one connection, up to the packet that says what the client wants.
type negotiation struct {
	config   *Config
	socket   *socket.Socket
	deadline time.Time

	address, destination net.Addr // of the client, once it is known

	visit *admission.Visit
	tls   *tls.Conn // nil before TLS
	leaf  presentedLeaf
	stage string
}

// conn is the connection as far as it has come.
func (n *negotiation) conn() net.Conn {
	if n.tls != nil {
		return n.tls
	}
	return n.socket
}

// run answers at most one SSLRequest and one GSSENCRequest, in either order, and returns the client behind them.
func (n *negotiation) run(ctx context.Context) (*Client, error) {
	if err := n.socket.SetDeadline(n.deadline); err != nil {
		return nil, err
	}
	if err := n.readProxyHeader(); err != nil {
		return nil, err
	}
	if err := n.arrive(ctx); err != nil {
		return nil, err
	}
	n.stage = "opening"
	gssAsked := false
	for {
		opening, err := readOpening(n.socket)
		if err != nil {
			return nil, err
		}
		switch {
		case opening.Kind == wire.KindTLS && gssAsked: // only the first byte of a connection may begin TLS
			return nil, errLateTLS
		case opening.Kind == wire.KindTLS:
			n.socket.Unread([]byte{wire.TLSRecordHandshake})
			return n.direct(ctx)
		case opening.Kind == wire.KindSSL:
			if _, err := n.socket.Write(acceptSSL); err != nil {
				return nil, err
			}
			if err := n.handshake(ctx, n.forClient); err != nil {
				return nil, err
			}
			return n.inside()
		case opening.Kind == wire.KindGSSENC && !gssAsked:
			gssAsked = true
			if _, err := n.socket.Write(refuseGSSENC); err != nil {
				return nil, err
			}
		case opening.Kind == wire.KindCancel: // libpq before 17 cancels in the clear, whatever its session uses
			return n.client(opening)
		case opening.Kind == wire.KindStartup:
			if !n.config.PlaintextAllowed {
				return nil, errTLSRequired
			}
			return n.client(opening)
		default:
			return nil, repeated(opening.Kind)
		}
	}
}

// readProxyHeader takes the client's address from the header of a peer that speaks for others.
func (n *negotiation) readProxyHeader() error {
	if !n.config.ProxyProtocolFrom.Contain(n.socket.RemoteAddr()) {
		return nil
	}
	n.stage = "proxy header"
	source, destination, err := proxyAddresses(n.socket)
	if err == nil && source != nil {
		n.address, n.destination = source, destination
	}
	return err
}

// arrive asks for leave to go on. A client that comes too late for a login is soon done: it will be refused, unless it
// cancels a query.
func (n *negotiation) arrive(ctx context.Context) (err error) {
	n.stage = "limits"
	if n.visit, err = n.config.Gate.Arrive(ctx, admission.AddrOf(n.address)); err != nil || n.visit.Late() == nil {
		return err
	}
	if soon := time.Now().Add(admission.LatePatience); soon.Before(n.deadline) {
		n.deadline = soon
	}
	return n.socket.SetDeadline(n.deadline)
}

// readOpening reads one packet. What is wrong with a CancelRequest gets no answer, as no CancelRequest does.
func readOpening(r io.Reader) (wire.Opening, error) {
	opening, err := wire.ReadOpening(r)
	if err != nil && opening.Kind == wire.KindCancel {
		err = errors.New(err.Error())
	}
	return opening, err
}

// direct serves a client that opened with TLS at once. ALPN is mandatory then, so that a client of another protocol
// cannot be led here (ALPACA).
func (n *negotiation) direct(ctx context.Context) (*Client, error) {
	if err := n.handshake(ctx, n.challengeOrClient); err != nil {
		return nil, err
	}
	switch n.tls.ConnectionState().NegotiatedProtocol {
	case alpn:
		return n.inside()
	case alpnACME:
		return nil, errChallenge
	default:
		return nil, errNoALPN
	}
}

// forClient is the configuration for a handshake that no challenge may come in.
func (n *negotiation) forClient(*tls.ClientHelloInfo) (*tls.Config, error) { return n.config.TLS, nil }

// challengeOrClient tells by its protocols which of the two a handshake is.
func (n *negotiation) challengeOrClient(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if n.config.Challenges != nil && isChallenge(hello) {
		return n.config.Challenges, nil
	}
	return n.config.TLS, nil
}

// handshake waits for its turn between the client's first message and our answer: that is where the work is, and nobody
// waits for the network meanwhile. A challenge may wait for the storage, and takes no turn.
func (n *negotiation) handshake(ctx context.Context, choose func(*tls.ClientHelloInfo) (*tls.Config, error)) error {
	n.stage = "tls"
	n.socket.StartTLS()
	done := func() {}
	defer func() { done() }()
	conn := tls.Server(n.socket, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		config, err := choose(hello)
		if err != nil || config == n.config.Challenges {
			return config, err
		}
		if done, err = n.config.Gate.Turn(hello.Context()); err != nil {
			done = func() {}
			return nil, err
		}
		n.socket.OnWrite(done)
		return config, nil
	}})
	if err := conn.HandshakeContext(withLeaf(ctx, &n.leaf)); err != nil {
		return fmt.Errorf("tls handshake: %w", err)
	}
	n.tls = conn
	return nil
}

// inside reads the one packet that may come first inside TLS. A negotiation request there closes the connection without
// an answer (CVE-2026-14681).
func (n *negotiation) inside() (*Client, error) {
	n.stage = "startup"
	opening, err := readOpening(n.tls)
	switch {
	case err != nil:
		return nil, err
	case opening.Kind != wire.KindStartup && opening.Kind != wire.KindCancel:
		return nil, errInsideTLS
	}
	return n.client(opening)
}

// client is the client that opened so, unless its certificate, or the lack of one, is against it.
func (n *negotiation) client(opening wire.Opening) (*Client, error) {
	c := &Client{
		Conn: n.conn(), Address: n.address, Destination: n.destination, Opening: opening, Visit: n.visit, Deadline: n.deadline,
	}
	if n.tls != nil {
		state := n.tls.ConnectionState()
		c.TLS, c.Leaf = &state, n.leaf.cert.Leaf
	}
	if n.config.ClientCertificates != nil {
		n.stage = stageCertificate
		if err := n.config.ClientCertificates.check(c.TLS, opening); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// repeated is PostgreSQL's answer to a request that may come only once: to it, the code is then a protocol version.
func repeated(kind wire.Kind) error {
	return &wire.ErrorResponse{
		Code:    wire.FeatureNotSupported,
		Message: "unsupported frontend protocol: unexpected " + kind.String(),
	}
}
