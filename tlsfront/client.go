package tlsfront

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Client is a connection that has said what it wants.
type Client struct {
	// Conn is a *socket.Socket, or a *tls.Conn over one. Nothing behind the opening packet was read from it. It carries
	// Deadline as its deadline.
	Conn net.Conn
	// Address is where the client is, and Destination what it connected to: as the PROXY header says where there was one,
	// otherwise the two ends of Conn. Whoever asks who a client is asks this, never Conn.
	Address, Destination net.Addr
	// Opening is a StartupMessage or a CancelRequest.
	Opening wire.Opening
	// TLS is the state of the client's TLS, nil without. VerifiedChains are set where the client has shown a certificate that
	// ClientCertificates found to be good; every other was refused.
	TLS *tls.ConnectionState
	// Leaf is the certificate that this very connection was shown, nil without TLS. Channel binding is computed from it.
	Leaf *x509.Certificate
	// Visit is the client's since it arrived, nil without a gate. It is the handler's to end.
	Visit *admission.Visit
	// Deadline is when the login must have reached AuthenticationOk.
	Deadline time.Time
}

// IP returns the client's IP address, IPv4 as such and without zone. It is the zero Addr for a client on a unix socket.
func (c *Client) IP() netip.Addr { return admission.AddrOf(c.Address) }
