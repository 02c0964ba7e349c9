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
	"sync"

	"github.com/replicon/pgreplicaproxy/internal/admin"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// listenAdmin binds the admin listener. The one that nobody asked for may fail: the commands do without it then.
func (s *service) listenAdmin() error {
	cfg := s.cfg.Admin
	if cfg.Unasked {
		_ = os.MkdirAll(s.cfg.StateDir, 0o700) // listen tells
	}
	ln, err := listen(cfg.Listen)
	if err != nil && cfg.Unasked {
		s.log.Warn("no admin listener: the commands that ask the running program will not work", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	if !cfg.Listen.local() {
		if ln, err = s.adminTLS(ln); err != nil {
			return err
		}
	}
	s.admin = ln
	return nil
}

// adminTLS puts TLS before a listener that others than this machine reach. A client certificate is verified where there is one;
// package admin says what it is good for.
func (s *service) adminTLS(ln net.Listener) (net.Listener, error) {
	get := s.certificates.get
	if cfg := s.cfg.Admin; cfg.Certificate.CertFile != "" {
		files, err := tlsfront.LoadCertificateFiles([]tlsfront.CertificateFile{cfg.Certificate})
		if err != nil {
			return nil, errors.Join(err, ln.Close())
		}
		get = files.GetCertificate
	}
	return tls.NewListener(ln, &tls.Config{
		GetCertificate: get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		ClientCAs: s.cfg.Admin.ClientCAs, ClientAuth: tls.VerifyClientCertIfGiven,
	}), nil
}

// serveAdmin serves the admin listener. Without it sessions go on.
func (s *service) serveAdmin(ctx context.Context) {
	token, err := adminToken(s.cfg)
	if err != nil {
		s.log.Warn("no token for the admin listener: it allows no changes", "err", err)
	}
	sources, history := s.adminSources(), &admin.History{}
	known := sources
	known.Sessions = nil // nothing is drawn of them
	var drawing sync.WaitGroup
	drawing.Go(func() { history.Run(ctx, known.Status) })
	defer drawing.Wait()
	handler := admin.Handler(admin.Config{
		Sources: sources, Actions: s.adminActions(), Metrics: s.metrics.Handler(s.server.Count), Events: s.events, History: history,
		Token: token, Local: s.cfg.Admin.Listen.local(), Profiles: s.cfg.Admin.Pprof, Logger: s.log,
	})
	s.log.Info("admin listening", "address", s.admin.Addr().String())
	if err := admin.Serve(ctx, s.admin, handler, s.log); err != nil {
		s.log.Error("admin listener broken", "err", err)
	}
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
		Drained: s.server.Draining, Sessions: s.sessionList, Routes: s.routeList, Certificates: nil,
		Access: s.accessStatus,
	}
}

// adminActions are what the admin listener does.
func (s *service) adminActions() admin.Actions {
	return admin.Actions{Drain: s.server.DrainBackend, EndSession: s.server.EndSession}
}

func (s *service) clusterStatus(name string) admin.Cluster {
	c := admin.Cluster{Authentication: "relay"}
	if _, ok := s.cfg.Passthrough[name]; ok {
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
	routes := s.cfg.Routes.Routes
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
