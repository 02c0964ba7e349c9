package tlsfront

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// ClientCertificateConfig says which certificates clients may show. It is read only once in use.
type ClientCertificateConfig struct {
	// CAFile holds the authorities, in PEM, whose certificates are good.
	CAFile string
	// CRLFile holds lists of revoked certificates, in PEM. Where it is set, as in PostgreSQL every authority of a client's chain
	// needs a list there that is still valid. Empty is no check.
	CRLFile string
	// Required refuses clients that show none, those without TLS too.
	Required bool
	// Map says whose certificates may log in as whom; empty leaves that to the login. It is not asked of clients without.
	Map []ClientRule
}

// ClientCertificates checks the certificates of clients. Make one with LoadClientCertificates. All methods may be called
// concurrently.
//
// The check comes after the handshake and not in it, so that a client that fails can be told why in its own protocol: in TLS 1.3 it
// believes the handshake to be over when the alert comes, and often does not show it. Nothing of what the client says is
// looked at before.
type ClientCertificates struct {
	cfg     ClientCertificateConfig
	watch   fileWatch
	current atomic.Pointer[clientAuthorities]
}

// LoadClientCertificates reads the files. The error names the file and the reason.
func LoadClientCertificates(cfg ClientCertificateConfig) (*ClientCertificates, error) {
	c := &ClientCertificates{cfg: cfg}
	c.watch.files = []string{cfg.CAFile}
	if cfg.CRLFile != "" {
		c.watch.files = append(c.watch.files, cfg.CRLFile)
	}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again, for the clients that come next. On an error what was read before stays.
func (c *ClientCertificates) Reload() error { return c.watch.reload(c.load) }

// Watch reloads whenever the files have changed, as CertificateFiles.Watch does.
func (c *ClientCertificates) Watch(ctx context.Context, interval time.Duration, told func(error)) {
	c.watch.watch(ctx, interval, c.load, told)
}

func (c *ClientCertificates) load() error {
	authorities, err := loadAuthorities(c.cfg.CAFile)
	if err != nil {
		return fmt.Errorf("read authorities of client certificates: %w", err)
	}
	if c.cfg.CRLFile != "" {
		if err := authorities.loadCRLs(c.cfg.CRLFile); err != nil {
			return fmt.Errorf("read lists of revoked client certificates: %w", err)
		}
	}
	c.current.Store(authorities)
	return nil
}

// Warnings tells what an operator should know: that a list of revoked certificates has expired, so that clients are refused.
func (c *ClientCertificates) Warnings() []string {
	var all []string
	for _, list := range c.current.Load().crls {
		if time.Now().After(list.nextUpdate) {
			all = append(all, fmt.Sprintf("the list of %s in %s has expired at %s: clients with its certificates are refused",
				list.issuer, c.cfg.CRLFile, list.nextUpdate.UTC().Format(time.RFC3339)))
		}
	}
	return all
}

// Ask makes a configuration ask clients for a certificate.
func (c *ClientCertificates) Ask(config *tls.Config) { config.ClientAuth = tls.RequestClientCert }

// check decides about a client by what it has shown, and fills in the chains of a certificate that is good. The state is nil
// without TLS.
func (c *ClientCertificates) check(state *tls.ConnectionState, opening wire.Opening) error {
	if state == nil || len(state.PeerCertificates) == 0 {
		if c.cfg.Required && opening.Kind == wire.KindStartup { // a CancelRequest has its key
			return errNoClientCertificate
		}
		return nil
	}
	chains, err := c.current.Load().verify(state.PeerCertificates, time.Now())
	if err != nil {
		return errClientCertificate(err)
	}
	state.VerifiedChains = chains
	if leaf := state.PeerCertificates[0]; opening.Kind == wire.KindStartup && !mayUse(c.cfg.Map, leaf, opening.Startup.User()) {
		return errClientUser(leaf, opening.Startup.User())
	}
	return nil
}

var errNoClientCertificate = &wire.ErrorResponse{
	Code:    wire.InvalidAuthorizationSpecification,
	Message: "connection requires a valid client certificate", // as PostgreSQL says it
	Hint:    "Name a certificate and its key with sslcert and sslkey.",
}

// errClientCertificate tells a client what is wrong with its certificate, and the log the rest.
func errClientCertificate(err error) error {
	reason := err.Error()
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		reason = "no authority that is trusted here has signed it"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		reason = "it has expired or is not valid yet"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		reason = "it is not for clients"
	}
	return errors.Join(&wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: "client certificate is not accepted: " + reason,
		Hint:    "libpq shows the certificate of sslcert, by default ~/.postgresql/postgresql.crt, to every server that asks.",
	}, err)
}

func errClientUser(leaf *x509.Certificate, user string) error {
	return &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("client certificate of %q may not log in as user %q", leaf.Subject.CommonName, user),
		Hint:    "The client_map blocks of the proxy's configuration say who may.",
	}
}

// clientAuthorities is the result of one complete reading, immutable once published.
type clientAuthorities struct {
	roots *x509.CertPool
	certs []*x509.Certificate
	crls  map[string]*revocationList // by the authority's public key; nil is no check
}

// revocationList is what is needed of a CRL.
type revocationList struct {
	issuer     string
	nextUpdate time.Time
	revoked    map[string]struct{} // serial numbers
}

func loadAuthorities(file string) (*clientAuthorities, error) {
	a := &clientAuthorities{roots: x509.NewCertPool()}
	err := eachBlock(file, "CERTIFICATE", func(der []byte) error {
		cert, err := x509.ParseCertificate(der)
		if err == nil {
			a.roots.AddCert(cert)
			a.certs = append(a.certs, cert)
		}
		return err
	})
	return a, err
}

// loadCRLs takes lists that authorities of the CA file have signed.
func (a *clientAuthorities) loadCRLs(file string) error {
	a.crls = make(map[string]*revocationList)
	return eachBlock(file, "X509 CRL", func(der []byte) error {
		crl, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		signer := a.signer(crl)
		if signer == nil {
			return fmt.Errorf("the list of %s is not signed by an authority of the CA file", crl.Issuer)
		}
		if older := a.crls[publicKey(signer)]; older != nil && older.nextUpdate.After(crl.NextUpdate) {
			return nil
		}
		list := &revocationList{crl.Issuer.String(), crl.NextUpdate, make(map[string]struct{}, len(crl.RevokedCertificateEntries))}
		for _, entry := range crl.RevokedCertificateEntries {
			list.revoked[key(entry.SerialNumber)] = struct{}{}
		}
		a.crls[publicKey(signer)] = list
		return nil
	})
}

func key(serial *big.Int) string { return string(serial.Bytes()) }

func publicKey(cert *x509.Certificate) string { return string(cert.RawSubjectPublicKeyInfo) }

// signer returns the authority that has signed a list, nil if none has.
func (a *clientAuthorities) signer(crl *x509.RevocationList) *x509.Certificate {
	for _, cert := range a.certs {
		if crl.CheckSignatureFrom(cert) == nil {
			return cert
		}
	}
	return nil
}

// verify returns the chains by which a client's certificate is good.
func (a *clientAuthorities) verify(shown []*x509.Certificate, now time.Time) ([][]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, cert := range shown[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := shown[0].Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil || a.crls == nil {
		return chains, err
	}
	var good [][]*x509.Certificate
	for _, chain := range chains {
		if revoked := a.revoked(chain, now); revoked != nil {
			err = revoked
			continue
		}
		good = append(good, chain)
	}
	if len(good) > 0 {
		err = nil
	}
	return good, err
}

// revoked says why a chain is not good by the lists.
func (a *clientAuthorities) revoked(chain []*x509.Certificate, now time.Time) error {
	for i, cert := range chain[:len(chain)-1] {
		list := a.crls[publicKey(chain[i+1])]
		switch {
		case list == nil:
			return errors.New("its authority has no list of revoked certificates")
		case now.After(list.nextUpdate):
			return errors.New("its authority's list of revoked certificates has expired")
		}
		if _, ok := list.revoked[key(cert.SerialNumber)]; ok {
			return errors.New("it was revoked")
		}
	}
	return nil
}

// eachBlock calls take for every block of a kind in a PEM file, which must have one.
func eachBlock(file, kind string, take func(der []byte) error) error {
	rest, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	found := false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != kind {
			continue
		}
		if err := take(block.Bytes); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%s: no %s in PEM in it", file, kind)
	}
	return nil
}
