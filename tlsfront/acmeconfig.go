package tlsfront

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/caddyserver/certmagic"
)

// Challenge is how an ACME server finds out that a name is ours, by its name in RFC 8555 and RFC 8737.
type Challenge string

// The challenges there are.
const (
	ChallengeTLSALPN Challenge = "tls-alpn-01"
	ChallengeHTTP    Challenge = "http-01"
	ChallengeDNS     Challenge = "dns-01"
)

// ACMEConfig says which certificates to obtain and from whom. It is read only once in use.
type ACMEConfig struct {
	// Domains are host names and IP addresses, each with a certificate of its own; wildcards need ChallengeDNS. The first is
	// the default. There must be one at least, none twice.
	Domains []string
	// Directory is the URL of the ACME server; "" is Let's Encrypt. Roots are trusted for talking to it; nil are the system's.
	Directory string
	Roots     *x509.CertPool
	// Email goes with the account; it may be empty. An account is made on first use, which agrees to the server's terms.
	Email string
	// EAB binds the account to one that the operator has with the ACME server; nil is none.
	EAB *EAB
	// Profile is a kind of certificate that the server offers, such as "shortlived"; "" is its default.
	Profile string

	Challenge Challenge
	// ChallengeAddress is the address, host:port, that ServeChallenges listens on. It is not used with ChallengeDNS.
	ChallengeAddress string
	// DNS answers ChallengeDNS; it is not used otherwise.
	DNS *DNSSolver

	// RenewCheckInterval is how often certificates are looked at; zero is ten minutes. A certificate is renewed when the server
	// says so (RFC 9773), else when a third of its life is left.
	RenewCheckInterval time.Duration
	// Dir keeps certificates, keys and the account; it is made when needed. Proxies that share certificates, and the work of
	// obtaining them, have SharedDir or Storage in common instead; Dir is then each one's copy of what it serves, for starts while
	// the other is out of reach.
	Dir       string
	SharedDir string
	Storage   certmagic.Storage `json:"-"`
	// StandIn is what clients are shown until there is a certificate. It is required.
	StandIn func(*tls.ClientHelloInfo) (*tls.Certificate, error) `json:"-"`
	// Logger gets a line for every certificate that was obtained, renewed, or could not be; nil is silent.
	Logger *slog.Logger
}

// storage returns what is authoritative, and the copy in front of it, nil for none.
func (c *ACMEConfig) storage() (authoritative, copied certmagic.Storage) {
	own := &certmagic.FileStorage{Path: c.Dir}
	switch {
	case c.Storage != nil:
		return c.Storage, own
	case c.SharedDir != "":
		return &certmagic.FileStorage{Path: c.SharedDir}, own
	default:
		return own, nil
	}
}

// EAB is an external account binding (RFC 8555 section 7.3.4), as the ACME server's operator hands it out. It prints without its
// key, whatever prints it.
type EAB struct {
	KeyID  string
	MACKey string `json:"-"` // base64url
}

// Format writes the key's id for every verb. It makes EAB a fmt.Formatter.
func (e EAB) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.KeyID) }

// LogValue returns the key's id.
func (e EAB) LogValue() slog.Value { return slog.StringValue(e.KeyID) }
