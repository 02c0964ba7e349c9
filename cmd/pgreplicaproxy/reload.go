package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// plan is a configuration with everything open that it needs. The sockets that the one before has not stay its own until
// it is followed.
type plan struct {
	cfg          *config
	certificates *certificateSource
	clusters     []proxy.ClusterConfig
	adminTLS     *tls.Config // nil for none
	opened       sockets
}

// prepare opens what a configuration needs, all of it or nothing. It changes nothing that serves.
func (s *service) prepare(cfg *config) (*plan, error) {
	p := &plan{cfg: cfg}
	var err error
	if p.opened, err = s.bind(cfg); err != nil {
		return nil, err
	}
	if err = s.surrender(cfg, p.opened); err == nil { // before any file is opened that must be readable again later
		p.clusters, err = openClusters(cfg)
	}
	if err == nil {
		p.certificates, err = s.certificatesFor(cfg) // behind the others: it may have read files again
	}
	if err == nil {
		p.adminTLS, err = adminTLS(cfg.Admin, p.certificates)
	}
	if err != nil {
		s.discard(p)
		return nil, err
	}
	return p, nil
}

// discard closes what was opened for a plan that is not followed.
func (s *service) discard(p *plan) {
	p.opened.close()
	if before := s.current.Load(); p.certificates != nil && (before == nil || before.certificates != p.certificates) {
		p.certificates.discard()
	}
}

// bind opens the sockets of a configuration that are not open yet. The admin listener's may fail if nobody has asked for it: the
// commands do without it then.
func (s *service) bind(cfg *config) (sockets, error) {
	if cfg.Admin.Unasked {
		_ = os.MkdirAll(cfg.StateDir, 0o700) // listening tells
	}
	opened, err := s.sockets.bind(cfg.allListeners(), s.process)
	var bind *bindError
	if cfg.Admin.Unasked && errors.As(err, &bind) && bind.index == len(cfg.Listeners) {
		s.log.Warn("no admin listener: the commands that ask the running program will not work", "err", err)
		return s.sockets.bind(cfg.Listeners, s.process)
	}
	return opened, err
}

// certificatesFor returns the certificates of the plan before, with their files read again, where the configuration of them is
// the same.
func (s *service) certificatesFor(cfg *config) (*certificateSource, error) {
	before := s.current.Load()
	if before == nil || !before.cfg.sameCertificates(cfg) {
		return openCertificates(cfg, s.log.Logger)
	}
	return before.certificates, before.certificates.reload()
}

// sameCertificates reports whether two configurations have certificates from the same source.
func (cfg *config) sameCertificates(other *config) bool {
	return reflect.DeepEqual(cfg.Certificates, other.Certificates) && reflect.DeepEqual(cfg.caNames(), other.caNames()) &&
		sameACME(cfg.ACME, other.ACME) && cfg.ACMEStorage == other.ACMEStorage &&
		reflect.DeepEqual(cfg.ClientCertificates, other.ClientCertificates)
}

// sameACME reports whether two configurations of ACME are the same.
func sameACME(a, b *tlsfront.ACMEConfig) bool {
	if a == nil || b == nil {
		return a == b
	}
	one, other := *a, *b
	one.Roots, other.Roots = nil, nil // which DeepEqual cannot compare
	return reflect.DeepEqual(one, other) && a.Roots.Equal(b.Roots)
}

// allListeners are the listeners of clients, and the admin listener behind them.
func (cfg *config) allListeners() []listenerConfig {
	return append(cfg.Listeners[:len(cfg.Listeners):len(cfg.Listeners)], cfg.Admin.Listen)
}

// adminKey is the key of the admin listener's socket.
func (cfg *config) adminKey() socketKey { return keys(cfg.allListeners())[len(cfg.Listeners)] }

// proxyConfig is what a plan means for sessions.
func (s *service) proxyConfig(p *plan) proxy.Config {
	return proxy.Config{
		Clusters: p.clusters, Routes: p.cfg.Routes, DrainTimeout: p.cfg.DrainTimeout, Leaves: p.certificates.leafHashes,
		Logger: s.log.Logger, Metrics: s.metrics, Events: s.events, Gate: s.gate,
	}
}

// errStopping is an answer to a wish that comes too late.
var errStopping = errors.New("the program is stopping")

// errNotReloaded means that the configuration has mistakes, of which the text beside it tells.
var errNotReloaded = errors.New("the configuration was not reloaded, the old one stays")

// wish is what run is asked for: a reload, or an upgrade. It gets one answer.
type wish struct {
	upgrade bool
	answer  func(text string, err error)
}

// Reload reads the configuration again and changes to it: everything, or after an error nothing. The text says that it was done,
// and what is odd about the file; an error tells every mistake with its line and what to write instead. It may be called from
// anywhere, and takes until the servers of new clusters were asked once.
func (s *service) Reload(ctx context.Context) (text string, err error) {
	told, err := s.ask(ctx, false)
	if err != nil {
		return "", fmt.Errorf("%w\n\n%s", err, told)
	}
	return strings.TrimSpace("reloaded the configuration\n\n" + told), nil
}

// ask has run fulfil a wish, and waits for the answer.
func (s *service) ask(ctx context.Context, upgrade bool) (text string, err error) {
	type outcome struct {
		text string
		err  error
	}
	done := make(chan outcome, 1)
	select {
	case s.wishes <- wish{upgrade, func(text string, err error) { done <- outcome{text, err} }}:
	case <-s.stopping:
		return "", errStopping
	case <-ctx.Done():
		return "", ctx.Err()
	}
	o := <-done
	return o.text, o.err
}

// change is Reload for run. The text is the diagnostics. It is given up when changes ends; what it starts ends with ctx.
func (s *service) change(ctx, changes context.Context) (text string, err error) {
	cfg, diags := s.load()
	var next *plan
	if !diags.hasErrors() {
		next = s.planFor(cfg, &diags)
	}
	diags.log(s.log.Logger)
	var told strings.Builder
	if err := diags.write(&told); err != nil {
		return "", err
	}
	if diags.hasErrors() {
		err = errors.New(diags.String())
	} else if err = s.server.Update(changes, s.proxyConfig(next)); err != nil {
		s.discard(next)
	}
	s.metrics.Reloaded(err == nil)
	if err != nil {
		s.log.Error("configuration not reloaded, the old one stays", "err", err)
		s.tell(events.Error, "configuration not reloaded: %v", err)
		s.metrics.Reloaded(false)
		return told.String(), fmt.Errorf("%w: %w", errNotReloaded, err)
	}
	s.switchTo(ctx, next)
	s.log.Info("configuration reloaded")
	s.tell(events.Info, "configuration reloaded: %v", next.cfg)
	s.metrics.Reloaded(true)
	return told.String(), nil
}

// planFor prepares the next plan. What is in its way becomes a diagnostic.
func (s *service) planFor(cfg *config, diags *diagnostics) *plan {
	if cfg.StateDir != s.current.Load().cfg.StateDir {
		diags.failAt(place{key: "state_dir"}, "Not while the program runs",
			"What is kept in state_dir is in use. Restart the program to change it.")
		return nil
	}
	next, err := s.prepare(cfg)
	var bind *bindError
	switch {
	case errors.As(err, &bind) && bind.index < len(cfg.Listeners):
		diags.failAt(place{block: "listen", nth: bind.index}, "Address cannot be used", sentence(err.Error())+".")
	case bind != nil:
		diags.failAt(place{block: "admin"}, "Address cannot be used", sentence(err.Error())+".")
	case err != nil:
		diags.failAt(place{}, "Configuration cannot be used", sentence(err.Error())+".")
	}
	return next
}

// switchTo follows a plan that the server of sessions follows already. Nothing of it can fail.
func (s *service) switchTo(ctx context.Context, next *plan) {
	old := s.current.Swap(next)
	s.log.change(next.cfg.LogLevel, next.cfg.LogFormat)
	s.gate.SetLimits(next.cfg.Limits)
	s.open(next)
	if next.certificates != old.certificates {
		next.certificates.start(ctx, &s.parts)
	}
	s.serveClients(ctx, next)
	if next.certificates != old.certificates {
		old.certificates.stop()
	}
	if !reflect.DeepEqual(next.cfg.Admin, old.cfg.Admin) || !next.cfg.sameCertificates(old.cfg) {
		s.serveAdmin(ctx, next)
	}
	kept := make(map[socketKey]bool)
	for _, key := range keys(next.cfg.allListeners()) {
		kept[key] = true
	}
	for key, socket := range s.sockets {
		if !kept[key] {
			socket.close()
			delete(s.sockets, key)
			s.log.Info("listening no more", "address", socket.Addr().String())
		}
	}
}
