package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/replicon/pgreplicaproxy/internal/admin"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/metrics"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// adminTLS is the TLS of an admin listener that others than this machine reach, nil for the others. A client certificate is
// verified where there is one; package admin says what it is good for.
func adminTLS(cfg adminConfig, front *certificateSource) (*tls.Config, error) {
	if cfg.Listen.local() {
		return nil, nil
	}
	get := front.local
	if cfg.Certificate.CertFile != "" {
		files, err := tlsfront.LoadCertificateFiles([]tlsfront.CertificateFile{cfg.Certificate})
		if err != nil {
			return nil, err
		}
		get = files.GetCertificate
	}
	return &tls.Config{
		GetCertificate: get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		ClientCAs: cfg.ClientCAs, ClientAuth: tls.VerifyClientCertIfGiven,
	}, nil
}

// serveAdmin serves the admin listener by a plan. Without it sessions go on.
func (s *service) serveAdmin(ctx context.Context, p *plan) {
	socket := s.sockets[p.cfg.adminKey()]
	if socket == nil { // there was none to be had, and nobody had asked for it
		return
	}
	token, err := adminToken(p.cfg)
	if err != nil {
		s.log.Warn("no token for the admin listener: it allows no changes", "err", err)
	}
	handler := admin.Handler(admin.Config{
		Sources: s.adminSources(), Actions: s.adminActions(), Metrics: s.metrics.Handler(s.server.Count), Events: s.events,
		History: s.history, Token: token, Local: p.cfg.Admin.Listen.local(), Profiles: p.cfg.Admin.Pprof, Logger: s.log.Logger,
	})
	message := "admin listening"
	if p.cfg.Admin.Unasked { // nobody has to be told of what everybody has
		message = ""
	}
	s.serveOn(message, socket, func(ln net.Listener) error {
		ln = admission.Aside().Listen(ln)
		if p.adminTLS != nil {
			ln = tls.NewListener(ln, p.adminTLS)
		}
		if err := admin.Serve(ctx, ln, handler, s.log.Logger); err != nil {
			s.log.Error("admin listener broken", "err", err)
		}
		return nil
	})
}

// adminToken returns the token of the configuration, or the one that is kept in the state directory, where it is made once.
func adminToken(cfg *config) (string, error) {
	if cfg.Admin.Token != "" {
		return string(cfg.Admin.Token), nil
	}
	file := tokenFile(cfg)
	token, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		token, err = makeOnce(file, []byte(rand.Text()+"\n"))
	}
	return strings.TrimSpace(string(token)), err
}

func tokenFile(cfg *config) string { return filepath.Join(cfg.StateDir, "admin.token") }

// adminSources are what the admin listener tells.
func (s *service) adminSources() admin.Sources {
	return admin.Sources{
		Version: buildVersion(), Started: s.started, Snapshots: s.server.Snapshots, Clusters: s.clusterStatus,
		Standing: s.server.Standing, Sessions: s.sessionList, Routes: s.routeList, Access: s.accessStatus,
		Certificates: func() []admin.Certificate { return s.current.Load().certificates.admin() },
		NotReady:     func() []string { return s.current.Load().certificates.notReady() },
	}
}

// adminActions are what the admin listener does.
func (s *service) adminActions() admin.Actions {
	actions := admin.Actions{
		Drain: s.server.DrainBackend, EndSession: s.server.EndSession, Accept: s.server.Accept, Forget: s.server.Forget,
		Reload: s.Reload,
	}
	if s.process != nil {
		actions.Upgrade = s.Upgrade
	}
	return actions
}

func (s *service) clusterStatus(name string) admin.Cluster {
	c := admin.Cluster{Authentication: "relay", Waiting: s.server.Waiting(name)}
	if _, ok := s.current.Load().cfg.Passthrough[name]; ok {
		c.Authentication = "scram_passthrough"
	}
	return c
}

func (s *service) accessStatus() map[string]map[string]admin.Access {
	list := make(map[string]map[string]admin.Access)
	for cluster, audits := range s.server.Audits() {
		list[cluster] = make(map[string]admin.Access)
		for name, audit := range audits {
			access := admin.Access{Binding: audit.Binding.String(), Findings: []string{}}
			for _, finding := range slices.Sorted(maps.Keys(audit.Findings)) {
				access.Findings = append(access.Findings, audit.Findings[finding])
			}
			list[cluster][name] = access
		}
	}
	return list
}

// limits are those of metrics.Sources.
func (s *service) limits() metrics.Limits {
	stats := s.gate.Stats()
	return metrics.Limits{Refused: stats.Refused, Flooded: stats.Flooded, Throttled: stats.Throttled, Pairs: stats.Pairs}
}

// findings are those of metrics.Sources.
func (s *service) findings() map[string]map[string][]string {
	list := make(map[string]map[string][]string)
	for cluster, audits := range s.server.Audits() {
		list[cluster] = make(map[string][]string)
		for name, audit := range audits {
			for finding := range audit.Findings {
				list[cluster][name] = append(list[cluster][name], finding.String())
			}
			if audit.Binding == proxy.BindingBroken {
				list[cluster][name] = append(list[cluster][name], "broken binding")
			}
		}
	}
	return list
}

func (s *service) routeList() []admin.Route {
	routes := s.current.Load().cfg.Routes.Routes
	list := make([]admin.Route, len(routes))
	for i := range routes {
		list[i] = admin.Route{Name: routes[i].String(), Cluster: routes[i].Cluster, Role: routes[i].Target.String()}
	}
	return list
}

func (s *service) sessionList() []admin.Session {
	sessions := s.server.List()
	list := make([]admin.Session, len(sessions))
	for i, info := range sessions {
		list[i] = sessionStatus(info)
	}
	return list
}

func sessionStatus(i proxy.SessionInfo) admin.Session {
	return admin.Session{
		ID: i.ID, Client: i.Client, User: i.User, Database: i.Database, Route: i.Route, Cluster: i.Cluster, Backend: i.Backend,
		State: string(i.State), Since: i.Since, ToServer: i.ToServer, ToClient: i.ToClient,
	}
}
