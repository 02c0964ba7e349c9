package tlsfront

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
)

// ACME obtains certificates and renews them. Make one with NewACME. All methods may be called concurrently.
type ACME struct {
	cfg    ACMEConfig
	log    *slog.Logger
	cache  *certmagic.Cache
	magic  *certmagic.Config
	issuer *certmagic.ACMEIssuer

	retry   chan struct{} // closed and renewed to end all pauses between attempts
	looking chan struct{} // one for each challenge that looks for its answer

	mu     sync.Mutex
	states map[string]*acmeState // by domain
}

// acmeState is what is remembered of one domain.
type acmeState struct {
	renewed time.Time
	err     error
	errAt   time.Time
}

// NewACME prepares everything and connects nowhere. Run does the work, and must be called, for it also ends what NewACME began.
func NewACME(cfg ACMEConfig) (*ACME, error) {
	a := &ACME{
		cfg: cfg, log: cfg.Logger, states: make(map[string]*acmeState),
		retry: make(chan struct{}), looking: make(chan struct{}, challengesAtOnce),
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.cfg.Domains = nil
	for _, name := range cfg.Domains {
		name = canonicalName(name)
		a.cfg.Domains = append(a.cfg.Domains, name)
		a.states[name] = &acmeState{}
	}
	if len(a.cfg.Domains) == 0 {
		return nil, errors.New("acme: no domains")
	}
	issuer, err := a.issuerTemplate()
	if err != nil {
		return nil, err
	}
	issuer.Logger = newACMELogger(a.log.Handler(), a.jobFailed)
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return a.magic, nil },
		RenewCheckInterval: cfg.RenewCheckInterval,
		Logger:             issuer.Logger,
	})
	storage, copied := cfg.storage()
	a.magic = certmagic.New(a.cache, certmagic.Config{
		Storage:            storage,
		LocalCache:         copied,
		RenewalWindowRatio: 1.0 / 3,
		OCSP:               certmagic.OCSPConfig{DisableStapling: true}, // PostgreSQL's clients read no staples
		OnEvent:            a.onEvent,
		ShouldEmitFunc:     func(event string) bool { return event != "tls_get_certificate" },
		Logger:             issuer.Logger,
	})
	a.issuer = certmagic.NewACMEIssuer(a.magic, issuer)
	a.magic.Issuers = []certmagic.Issuer{a.issuer}
	return a, nil
}

// issuerTemplate puts the configuration in certmagic's words.
func (a *ACME) issuerTemplate() (certmagic.ACMEIssuer, error) {
	issuer := certmagic.ACMEIssuer{
		CA: a.cfg.Directory, TrustedRoots: a.cfg.Roots, Email: a.cfg.Email, Agreed: true, Profile: a.cfg.Profile,
		DisableHTTPChallenge:    a.cfg.Challenge != ChallengeHTTP,
		DisableTLSALPNChallenge: a.cfg.Challenge != ChallengeTLSALPN,
		CertObtainTimeout:       90 * time.Second,
	}
	if issuer.Email == "" {
		issuer.Email = " " // certmagic trims it, but would ask on the terminal for an empty one
	}
	if eab := a.cfg.EAB; eab != nil {
		issuer.ExternalAccount = &acme.EAB{KeyID: eab.KeyID, MACKey: eab.MACKey}
	}
	if a.cfg.Challenge == ChallengeDNS {
		issuer.DNS01Solver = a.cfg.DNS.solver()
		return issuer, nil
	}
	// certmagic tries to listen there itself; that somebody does already is all it wants to know.
	host, port, err := net.SplitHostPort(a.cfg.ChallengeAddress)
	number, convErr := strconv.Atoi(port)
	if err = errors.Join(err, convErr); err != nil {
		return issuer, fmt.Errorf("acme: challenge address %q: %w", a.cfg.ChallengeAddress, err)
	}
	issuer.ListenHost, issuer.AltTLSALPNPort, issuer.AltHTTPPort = host, number, number
	return issuer, nil
}

// Load takes certificates from storage, as far as that can be had before ctx ends.
func (a *ACME) Load(ctx context.Context) {
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		for _, name := range a.cfg.Domains {
			_, _ = a.magic.CacheManagedCertificate(ctx, name) // what is wrong with it, Run will find
		}
	}()
	select {
	case <-loaded:
	case <-ctx.Done(): // a file system that hangs hears of no context
	}
}

// Run obtains the certificates that are missing and renews all in time, until ctx ends.
func (a *ACME) Run(ctx context.Context) {
	defer a.cache.Stop()
	var domains sync.WaitGroup
	if ctx.Err() == nil {
		domains.Go(func() { _ = a.cache.RenewManagedCertificates(ctx) }) // what became due while nobody ran
	}
	for _, name := range a.cfg.Domains {
		domains.Go(func() { a.obtain(ctx, name) })
	}
	domains.Wait()
	<-ctx.Done()
}

// Retry makes all attempts that wait for their turn begin now.
func (a *ACME) Retry() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.retry)
	a.retry = make(chan struct{})
}

// obtain brings one certificate into the cache, however often it takes. From then on the cache's own maintenance renews it.
func (a *ACME) obtain(ctx context.Context, name string) {
	pause := time.Minute // Let's Encrypt allows five failures an hour
	for attempt := 0; ; attempt++ {
		a.mu.Lock()
		retry := a.retry
		a.mu.Unlock()
		// The number of the attempt makes certmagic try on Let's Encrypt's staging server first, from the second on.
		err := a.magic.ManageSync(context.WithValue(ctx, certmagic.AttemptsCtxKey, &attempt), []string{name})
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			a.taken(name)
			return
		}
		managed := a.managed(name) != nil // one from storage that could not be renewed
		a.failed(name, err, managed)
		if managed {
			return
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, time.Hour)
		case <-retry:
			pause = time.Minute
		case <-ctx.Done():
			return
		}
	}
}

// onEvent is told by certmagic what happens to a certificate.
func (a *ACME) onEvent(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	if event == "cert_obtained" {
		what := "certificate obtained"
		if renewal, _ := data["renewal"].(bool); renewal {
			what = "certificate renewed"
		}
		a.log.Info(what, "name", name, "issuer", data["issuer"])
		a.taken(name)
	}
	return nil
}

// jobFailed is told by certmagic's log of a renewal that failed. The text of the error begins with the name, in brackets.
func (a *ACME) jobFailed(err error) {
	text, _ := strings.CutPrefix(err.Error(), "[")
	name, rest, _ := strings.Cut(text, "] ")
	a.failed(name, errors.New(rest), true)
}

// taken notes that a certificate was taken into use.
func (a *ACME) taken(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.states[name]; s != nil {
		*s = acmeState{renewed: time.Now()}
	}
}

// failed notes that a certificate could not be obtained or renewed, and logs it.
func (a *ACME) failed(name string, err error, renewal bool) {
	a.mu.Lock()
	if s := a.states[name]; s != nil {
		s.err, s.errAt = err, time.Now()
	}
	a.mu.Unlock()
	what := "certificate not obtained, clients are shown a stand-in"
	if renewal {
		what = "certificate not renewed, the old one stays"
	}
	a.log.Error(what, "name", name, "err", err)
}

// managed returns the certificate for one of the domains, nil if there is none yet.
func (a *ACME) managed(name string) *tls.Certificate {
	for _, cert := range a.cache.AllMatchingCertificates(name) {
		if slices.Contains(cert.Names, name) {
			return &cert.Certificate
		}
	}
	return nil
}

// GetCertificate chooses by server name: the domain itself, else a wildcard for its first label. A client that sends no name,
// or an unknown one, gets the certificate for the address that it has reached, if that is a domain, else the first there is,
// and the stand-in while there is none.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var names []string
	if name, ok := a.domain(hello.ServerName); ok {
		names = append(names, name)
	} else if hello.Conn != nil {
		if host, _, err := net.SplitHostPort(hello.Conn.LocalAddr().String()); err == nil && slices.Contains(a.cfg.Domains, host) {
			names = append(names, host)
		}
	}
	for _, name := range append(names, a.cfg.Domains...) {
		if cert := a.managed(name); cert != nil {
			return cert, nil
		}
	}
	return a.cfg.StandIn(hello)
}

// domain is the domain that stands for a server name.
func (a *ACME) domain(serverName string) (string, bool) {
	name := canonicalName(serverName)
	if slices.Contains(a.cfg.Domains, name) {
		return name, true
	}
	_, parent, _ := strings.Cut(name, ".")
	return "*." + parent, parent != "" && slices.Contains(a.cfg.Domains, "*."+parent)
}

// Ready reports whether every domain has a certificate that is valid now.
func (a *ACME) Ready() bool {
	now := time.Now()
	return !slices.ContainsFunc(a.cfg.Domains, func(name string) bool {
		cert := a.managed(name)
		return cert == nil || now.After(cert.Leaf.NotAfter)
	})
}

// Certificates tells of every domain.
func (a *ACME) Certificates() []CertificateStatus {
	list := make([]CertificateStatus, 0, len(a.cfg.Domains))
	for _, name := range a.cfg.Domains {
		status := CertificateStatus{Source: "acme", Names: []string{name}}
		if cert := a.managed(name); cert != nil {
			status = statusOf("acme", cert.Leaf)
		}
		a.mu.Lock()
		s := *a.states[name]
		a.mu.Unlock()
		status.Renewed = s.renewed
		if s.err != nil {
			status.LastError, status.LastErrorAt = s.err.Error(), s.errAt
		}
		list = append(list, status)
	}
	return list
}

// Leaves returns the certificates that clients may be shown now.
func (a *ACME) Leaves() []*x509.Certificate {
	var leaves []*x509.Certificate
	for _, name := range a.cfg.Domains {
		if cert := a.managed(name); cert != nil {
			leaves = append(leaves, cert.Leaf)
		}
	}
	return leaves
}

// Warnings tells what an operator should know about the certificates now served, and about who can read their keys; nil is
// fine.
func (a *ACME) Warnings() []string {
	var all []string
	now := time.Now()
	for _, leaf := range a.Leaves() {
		if w := validityWarning(leaf, now); w != "" {
			all = append(all, fmt.Sprintf("certificate for %s %s", strings.Join(certificateNames(leaf), ", "), w))
		}
	}
	for _, dir := range []string{a.cfg.Dir, a.cfg.SharedDir} {
		for _, key := range exposedKeys(dir) {
			all = append(all, fmt.Sprintf("key %s can be read by other users: chmod 0600 %[1]s", key))
		}
	}
	return all
}

// exposedKeys are the files with keys in a directory that more users can read than should. What cannot be looked into is not
// told: it will be when it is used.
func exposedKeys(dir string) []string {
	var keys []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".key" {
			return nil
		}
		if info, err := entry.Info(); err == nil && exposed(info) {
			keys = append(keys, path)
		}
		return nil
	})
	return keys
}
