package tlsfront

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/replicon/pgreplicaproxy/internal/admission"
)

// alpnACME is the protocol of the challenge tls-alpn-01 (RFC 8737).
const alpnACME = "acme-tls/1"

// isChallenge reports whether a handshake is one of a validation: RFC 8737 section 3 wants this protocol and no other.
func isChallenge(hello *tls.ClientHelloInfo) bool {
	return slices.Equal(hello.SupportedProtos, []string{alpnACME})
}

// Challenges returns the configuration for handshakes that are challenges, for Config.Challenges. It is nil unless
// the challenge is tls-alpn-01.
func (a *ACME) Challenges() *tls.Config {
	if a.cfg.Challenge != ChallengeTLSALPN {
		return nil
	}
	return &tls.Config{
		GetCertificate:         a.challengeCertificate,
		NextProtos:             []string{alpnACME},
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true,
	}
}

// Anybody can offer the protocol of challenges and name a domain. challengesAtOnce of them may look into the storage at a time,
// which may be slow or out of reach; the others wait for challengePatience.
const (
	challengesAtOnce  = 8
	challengePatience = 5 * time.Second
)

// challengeCertificate answers a challenge for one of the domains. Strangers who ask for other names do not reach the storage.
func (a *ACME) challengeCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !isChallenge(hello) || !slices.ContainsFunc(a.cfg.Domains, func(domain string) bool {
		return challengeName(domain) == canonicalName(hello.ServerName)
	}) {
		return nil, fmt.Errorf("no challenge for server name %q", hello.ServerName)
	}
	patient, cancel := context.WithTimeout(hello.Context(), challengePatience)
	defer cancel()
	select {
	case a.looking <- struct{}{}:
		defer func() { <-a.looking }()
	case <-patient.Done():
		return nil, fmt.Errorf("too many challenges at once: %w", patient.Err())
	}
	return a.magic.GetCertificate(hello)
}

// challengeName is the server name that a validation asks for: for an IP address its name for reverse lookups (RFC 8738
// section 6).
func challengeName(domain string) string {
	if _, err := netip.ParseAddr(domain); err == nil {
		if reverse, err := dns.ReverseAddr(domain); err == nil {
			return strings.TrimSuffix(reverse, ".")
		}
	}
	return domain
}

// ServeChallenges answers challenges on ln, which must be bound to the ChallengeAddress, and nothing else, until ctx ends; it
// closes ln. It is not needed where a listener for clients has that address and answers tls-alpn-01 (Config.Challenges).
func (a *ACME) ServeChallenges(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	if a.cfg.Challenge == ChallengeHTTP {
		return a.serveHTTP(ctx, ln)
	}
	// Without a logger: strangers are all there is at such an address.
	front := Config{
		TLS: ServerConfig(noCertificate, 0), Challenges: a.Challenges(), LoginTimeout: challengeTimeout, Gate: admission.Aside(),
	}
	return front.Serve(ctx, ln, func(_ context.Context, c *Client) { _ = c.Conn.Close() })
}

const challengeTimeout = 10 * time.Second

func noCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return nil, errors.New("this address is for challenges")
}

// serveHTTP answers http-01.
func (a *ACME) serveHTTP(ctx context.Context, ln net.Listener) error {
	server := http.Server{
		Handler:     a.issuer.HTTPChallengeHandler(http.NotFoundHandler()),
		ReadTimeout: challengeTimeout, WriteTimeout: challengeTimeout, IdleTimeout: challengeTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(admission.Aside().Listen(ln)); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		return err
	}
	return nil
}
