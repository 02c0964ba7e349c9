package tlsfront

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// Client is a connection that has said what it wants.
type Client struct {
	// Conn is a *socket.Socket, or a *tls.Conn over one. Nothing behind the opening packet was read from it. It carries
	// Deadline as its deadline.
	Conn net.Conn
	// Opening is a StartupMessage or a CancelRequest.
	Opening wire.Opening
	// TLS is the state of the client's TLS, nil without.
	TLS *tls.ConnectionState
	// Leaf is the certificate that this very connection was shown, nil without TLS. Channel binding is computed from it.
	Leaf *x509.Certificate
	// Deadline is when the login must have reached AuthenticationOk.
	Deadline time.Time
}
