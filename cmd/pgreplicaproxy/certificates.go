package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admin"
	"github.com/replicon/pgreplicaproxy/internal/certstore"
	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

const (
	// certificateWatch is how often certificate files are looked at.
	certificateWatch = 5 * time.Second
	// storageTimeout bounds how long a start waits for certificates that are stored elsewhere.
	storageTimeout = 5 * time.Second
)

// certificateSource is what clients are shown: certificates of files, of an ACME server, or of the local CA, which serves where there
// is neither, and as a stand-in until the ACME server has answered.
type certificateSource struct {
	log   *slog.Logger
	files *tlsfront.CertificateFiles // nil for none
	acme  *tlsfront.ACME             // nil for none
	ca    *tlsfront.LocalCA          // nil where files serve alone
	// clients checks what clients show; nil asks for nothing.
	clients *tlsfront.ClientCertificates
	// store is the database that ACME's certificates are shared by; nil for none.
	store *certstore.Store
	// challengeAddress is where ACME's challenges are answered; zero where they are not, or on a listener of clients.
	challengeAddress listenerConfig
	// stop ends what start began; nil before.
	stop context.CancelFunc
}

// openCertificates opens what the configuration names. Nothing is obtained yet.
func openCertificates(cfg *config, log *slog.Logger) (*certificateSource, error) {
	c := &certificateSource{log: log}
	var err error
	if cfg.ClientCertificates != nil {
		if c.clients, err = tlsfront.LoadClientCertificates(*cfg.ClientCertificates); err != nil {
			return nil, err
		}
	}
	if len(cfg.Certificates) > 0 {
		if c.files, err = tlsfront.LoadCertificateFiles(cfg.Certificates); err != nil {
			return nil, err
		}
	} else if c.ca, err = openLocalCA(cfg); err != nil && cfg.ACME == nil {
		return nil, err
	} else if err != nil { // a stand-in is no reason to be down
		log.Error("local CA not kept, the stand-in is of one in memory", "err", err)
		if c.ca, err = tlsfront.OpenLocalCA("", cfg.ACME.Domains, time.Now); err != nil {
			return nil, err
		}
	}
	if cfg.ACME != nil {
		if err := c.openACME(cfg); err != nil {
			return nil, err
		}
	}
	c.warn()
	return c, nil
}

// openACME prepares ACME and takes into use what is stored.
func (c *certificateSource) openACME(cfg *config) error {
	acme := *cfg.ACME
	acme.Logger = c.log
	if c.files != nil {
		acme.StandIn = c.files.GetCertificate
	} else {
		acme.StandIn = c.ca.GetCertificate
	}
	var err error
	if cfg.ACMEStorage != "" {
		if c.store, err = certstore.Open(string(cfg.ACMEStorage)); err != nil {
			return err
		}
		acme.Storage = c.store
	}
	if c.acme, err = tlsfront.NewACME(acme); err != nil {
		return err
	}
	address := listenerConfig{Network: "tcp", Address: acme.ChallengeAddress}
	shared := slices.ContainsFunc(cfg.Listeners, func(l listenerConfig) bool { return l.Network == "tcp" && l.Address == address.Address })
	if acme.Challenge != tlsfront.ChallengeDNS && !shared {
		c.challengeAddress = address
	}
	ctx, cancel := context.WithTimeout(context.Background(), storageTimeout)
	defer cancel()
	c.acme.Load(ctx)
	return nil
}

// start obtains and renews certificates, and reads files again when they have changed, until ctx ends or stop is called.
func (c *certificateSource) start(ctx context.Context, parts *sync.WaitGroup) {
	ctx, c.stop = context.WithCancel(ctx)
	parts.Go(func() { c.run(ctx) })
}

// discard is for certificates that are not started.
func (c *certificateSource) discard() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c.run(ctx)
}

// run is start until ctx ends.
func (c *certificateSource) run(ctx context.Context) {
	var parts sync.WaitGroup
	if c.files != nil {
		parts.Go(func() { c.files.Watch(ctx, certificateWatch, c.reloaded) })
	}
	if c.clients != nil {
		parts.Go(func() { c.clients.Watch(ctx, certificateWatch, c.reloaded) })
	}
	if c.acme != nil {
		parts.Go(func() {
			c.acme.Run(ctx)
			if c.store != nil {
				c.store.Close()
			}
		})
	}
	if c.challengeAddress.Network != "" {
		parts.Go(func() { c.answerChallenges(ctx) })
	}
	parts.Wait()
}

// answerChallenges listens for ACME's challenges. Where it cannot, clients are served all the same, and it tries again: another
// process, or the configuration before, may be about to leave the address. It tells after a second.
func (c *certificateSource) answerChallenges(ctx context.Context) {
	told := false
	for pause := 50 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 5*time.Second) {
		ln, err := listen(c.challengeAddress)
		if err == nil {
			err = c.acme.ServeChallenges(ctx, ln)
		}
		if err != nil && !told && pause > time.Second {
			c.log.Error("challenges of ACME cannot be answered", "err", err)
			told = true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// get chooses the certificate for a client.
func (c *certificateSource) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	switch {
	case c.files != nil && c.acme != nil:
		return c.files.Beside(c.acme)(hello)
	case c.files != nil:
		return c.files.GetCertificate(hello)
	case c.acme != nil:
		return c.acme.GetCertificate(hello)
	default:
		return c.ca.GetCertificate(hello)
	}
}

// local chooses the certificate that programs of this installation can verify: of the local CA, or the very ones of the files.
func (c *certificateSource) local(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.ca != nil {
		return c.ca.GetCertificate(hello)
	}
	return c.files.GetCertificate(hello)
}

// tls is the configuration for listeners of clients.
func (c *certificateSource) tls(minVersion uint16) *tls.Config {
	config := tlsfront.ServerConfig(c.get, minVersion)
	if c.clients != nil {
		c.clients.Ask(config)
	}
	return config
}

// challengeTLS answers challenges on listeners of clients; nil is none.
func (c *certificateSource) challengeTLS() *tls.Config {
	if c.acme == nil {
		return nil
	}
	return c.acme.Challenges()
}

// reload reads files again and makes attempts at the ACME server that wait for their turn begin now.
func (c *certificateSource) reload() error {
	if c.files != nil {
		if err := c.files.Reload(); err != nil {
			return err
		}
	}
	if c.clients != nil {
		if err := c.clients.Reload(); err != nil {
			return err
		}
	}
	if c.acme != nil {
		c.acme.Retry()
	}
	c.warn()
	return nil
}

// reloaded logs what became of files that have changed.
func (c *certificateSource) reloaded(err error) {
	if err != nil {
		c.log.Error("certificates not reloaded, the old ones stay", "err", err)
		return
	}
	c.log.Info("certificates reloaded")
	c.warn()
}

func (c *certificateSource) warn() {
	var all []string
	if c.files != nil {
		all = append(all, c.files.Warnings()...)
	}
	if c.acme != nil {
		all = append(all, c.acme.Warnings()...)
	} else if c.ca != nil {
		all = append(all, c.ca.Warnings()...)
	}
	if c.clients != nil {
		all = append(all, c.clients.Warnings()...)
	}
	for _, text := range all {
		c.log.Warn("certificate", "warning", text)
	}
}

// status tells of every certificate.
func (c *certificateSource) status() []tlsfront.CertificateStatus {
	var all []tlsfront.CertificateStatus
	if c.files != nil {
		all = c.files.Certificates()
	}
	if c.acme != nil {
		all = append(all, c.acme.Certificates()...)
	} else if c.ca != nil {
		all = append(all, c.ca.Certificates()...)
	}
	return all
}

// metrics is status for package metrics. A certificate that is still to be obtained expired long ago there, for an alarm on the
// expiry to ring.
func (c *certificateSource) metrics() []metrics.Certificate {
	var all []metrics.Certificate
	for _, s := range c.status() {
		soon := s.ExpiresSoon(time.Now())
		if !s.Obtained() {
			s.NotAfter, s.Renewed = time.Unix(0, 0), time.Unix(0, 0)
		}
		all = append(all, metrics.Certificate{
			Names: s.Names, NotAfter: s.NotAfter, Renewed: s.Renewed, ExpiresSoon: soon, Failing: s.LastError != "",
		})
	}
	return all
}

// admin is status for package admin.
func (c *certificateSource) admin() []admin.Certificate {
	var all []admin.Certificate
	for _, s := range c.status() {
		certificate := admin.Certificate{Names: s.Names, Source: s.Source, Issuer: s.Issuer, LastError: s.LastError}
		if s.Obtained() {
			certificate.NotAfter, certificate.Renewed, certificate.ExpiresSoon = &s.NotAfter, &s.Renewed, s.ExpiresSoon(time.Now())
		}
		all = append(all, certificate)
	}
	return all
}

// notReady says which certificates clients cannot be shown, one sentence each.
func (c *certificateSource) notReady() []string {
	var all []string
	now := time.Now()
	for _, s := range c.status() {
		switch {
		case s.Source != "acme" || now.Before(s.NotAfter):
		case !s.Obtained():
			all = append(all, fmt.Sprintf("no certificate for %s yet: clients are shown a stand-in", s.Names[0]))
		default:
			all = append(all, fmt.Sprintf("the certificate for %s has expired", s.Names[0]))
		}
	}
	return all
}

// leafHashes is proxy.Config.Leaves: those that a server may have too.
func (c *certificateSource) leafHashes() [][32]byte {
	var leaves []*x509.Certificate
	if c.files != nil {
		leaves = c.files.Leaves()
	}
	if c.acme != nil {
		leaves = append(leaves, c.acme.Leaves()...)
	}
	var hashes [][32]byte
	for _, leaf := range leaves {
		hashes = append(hashes, sha256.Sum256(leaf.Raw))
	}
	return hashes
}
