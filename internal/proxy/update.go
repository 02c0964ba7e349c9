package proxy

import (
	"context"
	"fmt"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// settings are what a Server goes by at one moment. They never change; Update replaces them.
type settings struct {
	routes       policy.Rules
	clusters     map[string]*cluster
	drainTimeout time.Duration
	leaves       func() [][32]byte
	// replaced is closed when there are newer ones.
	replaced chan struct{}
}

// cluster is a cluster as one configuration describes it.
type cluster struct {
	ClusterConfig
	*upkeep
}

// clusterNamed returns a cluster for an operator, who may misspell it.
func (s *Server) clusterNamed(name string) (*cluster, error) {
	if c := s.settings.Load().clusters[name]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no cluster is called %q", name)
}

// asksForSecrets reports whether the servers are asked for the secrets of roles.
func (c *cluster) asksForSecrets() bool { return c.Passthrough != nil && c.Passthrough.Lookup == nil }

// superusers reports whether the servers are asked for those of superusers too.
func (c *cluster) superusers() bool { return c.Passthrough != nil && c.Passthrough.Superusers }

// lookup asks for a role's secret: the servers, or what the configuration names instead.
func (c *cluster) lookup(ctx context.Context, backend, role string, maxAge time.Duration) (backends.RoleSecret, error) {
	if c.Passthrough.Lookup != nil {
		return c.Passthrough.Lookup(ctx, backend, role, maxAge)
	}
	return c.secrets.Lookup(ctx, backend, role, maxAge)
}

// newSettings makes the settings of cfg. Clusters that old has too go on; the others, which are returned, have to be started.
func (s *Server) newSettings(cfg Config, old map[string]*cluster) (next *settings, added []*upkeep) {
	next = &settings{
		routes: cfg.Routes, clusters: make(map[string]*cluster), drainTimeout: cfg.DrainTimeout, leaves: cfg.Leaves,
		replaced: make(chan struct{}),
	}
	for _, cc := range cfg.Clusters {
		cc.Monitor.Logger = s.log
		cc.Monitor.OnProbe = func(backend string, answered bool, took time.Duration) {
			s.metrics.Probed(cc.Monitor.Cluster, backend, answered, took)
		}
		cc.Monitor.OnChange = s.changed
		c := &cluster{ClusterConfig: cc}
		if before := old[cc.Monitor.Cluster]; before != nil {
			c.upkeep = before.upkeep
		} else {
			c.upkeep = s.newUpkeep(c)
			added = append(added, c.upkeep)
		}
		next.clusters[cc.Monitor.Cluster] = c
	}
	return next, added
}

// Update changes the configuration, the Logger excepted, while Run runs. Whoever comes after it is served by the new one. A
// session that exists stays on its server as long as the server is still named, in the same cluster and at the same address;
// otherwise it ends once it is idle, or when DrainTimeout is over.
//
// Clusters that are new have been asked once, all their servers, when Update returns. An error means that ctx ended before
// that; then nothing has changed.
func (s *Server) Update(ctx context.Context, cfg Config) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	old := s.settings.Load()
	next, added := s.newSettings(cfg, old.clusters)
	if err := s.start(ctx, added); err != nil {
		return err
	}
	for name, c := range next.clusters {
		if old.clusters[name] != nil {
			c.configure(c)
		}
	}
	s.settings.Store(next)
	close(old.replaced)
	for name, c := range old.clusters {
		if next.clusters[name] == nil {
			c.remove()
		}
	}
	return nil
}

// start hands clusters to Run, and waits until all their servers were asked. After an error none is kept.
func (s *Server) start(ctx context.Context, added []*upkeep) error {
	for i, u := range added {
		select {
		case s.starts <- u:
		case <-ctx.Done():
			return s.giveUp(ctx, added[:i])
		}
	}
	for _, u := range added {
		select {
		case <-u.monitor.FirstRound():
		case <-ctx.Done():
			return s.giveUp(ctx, added)
		}
	}
	return nil
}

func (s *Server) giveUp(ctx context.Context, started []*upkeep) error {
	for _, u := range started {
		u.remove()
	}
	return fmt.Errorf("wait for the servers of new clusters: %w", context.Cause(ctx))
}
