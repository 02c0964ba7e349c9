package tlsfront

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Negotiation is how the opening of one connection went.
type Negotiation struct {
	Outcome Outcome
	// TLS is the version of TLS that was agreed on, as crypto/tls numbers them; zero for none.
	TLS uint16
	// Took is the time since accept.
	Took time.Duration
}

// Outcome is what became of a connection before it was a client, in one word of a closed list.
type Outcome string

// The outcomes.
const (
	OutcomeClient      Outcome = "client"       // handed over, with a StartupMessage
	OutcomeCancel      Outcome = "cancel"       // handed over, with a CancelRequest
	OutcomeLeft        Outcome = "left"         // closed by the other side, or by the end of the program
	OutcomeTimeout     Outcome = "timeout"      // not done within the login timeout
	OutcomeTLSRequired Outcome = "tls_required" // came without TLS
	OutcomeFlood       Outcome = "flood"        // closed at once, for too many came
	OutcomeTLS         Outcome = "tls"          // failed in the TLS handshake
	OutcomeCertificate Outcome = "certificate"  // refused for its client certificate, or the lack of one
	OutcomeChallenge   Outcome = "challenge"    // was an ACME challenge
	OutcomeProtocol    Outcome = "protocol"     // sent something else than the protocol has
)

// observe tells the configuration's observer, if there is one, how the negotiation went.
func (n *negotiation) observe(began time.Time, client *Client, err error) {
	if n.config.Observe == nil {
		return
	}
	result := Negotiation{Outcome: n.outcome(client, err), Took: time.Since(began)}
	if n.tls != nil {
		result.TLS = n.tls.ConnectionState().Version
	}
	n.config.Observe(result)
}

func (n *negotiation) outcome(client *Client, err error) Outcome {
	switch {
	case err == nil && client.Opening.Kind == wire.KindCancel:
		return OutcomeCancel
	case err == nil:
		return OutcomeClient
	case errors.Is(err, admission.ErrFlood):
		return OutcomeFlood
	case left(err):
		return OutcomeLeft
	case errors.Is(err, os.ErrDeadlineExceeded):
		return OutcomeTimeout
	case errors.Is(err, errTLSRequired):
		return OutcomeTLSRequired
	case errors.Is(err, errChallenge):
		return OutcomeChallenge
	case n.stage == stageCertificate:
		return OutcomeCertificate
	case n.stage == "tls":
		return OutcomeTLS
	default:
		return OutcomeProtocol
	}
}

// left reports whether err is a connection that was closed, and nothing worse.
func left(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET)
}

// TLSName names a version of TLS for logs and metrics; "none" for zero.
func TLSName(version uint16) string {
	if version == 0 {
		return "none"
	}
	return tls.VersionName(version)
}
