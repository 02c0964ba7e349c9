package main

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/internal/proxy"
)

// placement reads what a cluster says about where sessions go and how long they stay.
func (c *converter) placement(raw *rawCluster, cfg *proxy.ClusterConfig) {
	cfg.Placement = proxy.Placement{
		HoldPrimary: c.duration(raw.HoldPrimary, defaultHoldPrimary, 0),
		HoldReplica: c.duration(raw.HoldReplica, defaultHoldReplica, 0),
		MaxWaiting:  c.count(raw.MaxWaiting, defaultMaxWaiting),
		MaxDials:    c.count(raw.MaxDials, defaultMaxDials),
		SlowStart:   c.duration(raw.SlowStart, defaultSlowStart, 0),
	}
	cfg.Transitions = proxy.Transitions{
		Demoted:  choice(c, raw.OnDemoted, defaultOnDemoted, proxy.ParseHandling),
		Promoted: choice(c, raw.OnPromoted, defaultOnPromoted, proxy.ParseHandling),
		Lagging:  choice(c, raw.OnLagging, defaultOnLagging, proxy.ParseHandling),
	}
}

// count returns a number of things that there is at least one of.
func (c *converter) count(a *hcl.Attribute, fallback int) int {
	n, ok := value[int](c, a, anInt)
	if !ok {
		return fallback
	}
	const most = 1_000_000
	if n < 1 || n > most {
		c.fail(a.Expr.Range(), "Number out of range", "%s must be between 1 and %d.", a.Name, most)
		return fallback
	}
	return n
}
