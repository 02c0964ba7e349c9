package proxy

import (
	"context"
	"slices"
	"sync"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/discovery"
)

// upkeep is what goes on for a cluster, by its name, as long as configurations have it.
type upkeep struct {
	name      string
	monitor   *backends.Monitor
	known     func() *backends.Snapshot // the monitor's
	secrets   *backends.Secrets         // for Passthrough without a Lookup of its own
	finder    *discovery.Finder
	audits    audits
	standings standings
	waiting   waitingRoom
	removed   chan struct{} // closed when it is to end

	mu      sync.Mutex
	cluster *cluster // as configured last, nil once removed
	found   discovery.Found
}

// newUpkeep returns the upkeep of a cluster, of which nothing runs before keepUp.
func (s *Server) newUpkeep(c *cluster) *upkeep {
	config := c.Monitor
	u := &upkeep{
		name: config.Cluster, secrets: backends.NewSecrets(config, c.superusers()), cluster: c,
		finder: discovery.New(c.Discovery, s.log.With("cluster", config.Cluster)), removed: make(chan struct{}),
	}
	config.Vacate = func(ctx context.Context, servers []backends.Target) error { return s.vacate(ctx, u, servers) }
	u.monitor = backends.NewMonitor(config)
	u.known = u.monitor.Snapshot
	return u
}

// configure goes over to another configuration of the cluster.
func (u *upkeep) configure(c *cluster) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cluster = c
	u.finder.Update(c.Discovery)
	u.apply()
}

// discovered takes in what discovery has found.
func (u *upkeep) discovered(found discovery.Found) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.found = found
	u.apply()
}

// remove ends the upkeep, and with it, within the drain timeout, the sessions of the cluster.
func (u *upkeep) remove() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.cluster = nil
	u.apply()
	close(u.removed)
}

// apply lets the servers be watched that the configuration names and those that were found. The caller holds mu.
func (u *upkeep) apply() {
	if u.cluster == nil {
		u.monitor.SetTargets(nil)
		return
	}
	config := u.cluster.Monitor
	config.Targets = withFound(config.Targets, u.found.Targets)
	u.secrets.Update(config, u.cluster.superusers())
	u.monitor.Update(config)
	u.monitor.SetLeader(leaderOf(u.found, config.Targets))
}

// withFound returns the servers of the configuration with those found behind them. A name is that of the first who has it.
func withFound(named, found []backends.Target) []backends.Target {
	all := slices.Clone(named)
	for _, t := range found {
		if !slices.ContainsFunc(named, func(n backends.Target) bool { return n.Name == t.Name }) {
			all = append(all, t)
		}
	}
	return all
}

// leaderOf returns the name that the member has here which was found to lead: the server at its address or, where the
// configuration writes addresses in another way, of its name. It is empty if there is none.
func leaderOf(found discovery.Found, all []backends.Target) string {
	for _, same := range []func(backends.Target) bool{
		func(t backends.Target) bool { return t.Address == found.LeaderAddress },
		func(t backends.Target) bool { return t.Name == found.Leader },
	} {
		if i := slices.IndexFunc(all, same); i >= 0 && found.Leader != "" {
			return all[i].Name
		}
	}
	return ""
}

// keepUp watches the servers of a cluster, and ends sessions whose server may no longer serve them, until ctx ends or the
// cluster is removed. Its sources are asked once before the first server is, so that the first round is one of all servers.
func (s *Server) keepUp(ctx context.Context, u *upkeep) {
	ctx, end := context.WithCancel(ctx)
	var watching sync.WaitGroup
	asked := make(chan struct{})
	watching.Go(func() {
		var once sync.Once
		u.finder.Run(ctx, func(found discovery.Found) {
			u.discovered(found)
			once.Do(func() { close(asked) })
		})
	})
	watching.Go(func() {
		select {
		case <-asked:
			u.monitor.Run(ctx)
		case <-ctx.Done():
		}
	})
	watching.Go(func() { s.audit(ctx, u) })
	watching.Go(func() { s.tend(ctx, u) })
	s.fence(ctx, u)
	end()
	watching.Wait()
	u.secrets.Close()
}
