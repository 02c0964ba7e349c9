package main

import (
	"time"

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

		MaxSessionAge: c.age(raw.MaxSessionAge),
		Rebalance:     c.boolean(raw.Rebalance, false),
	}
	cfg.Transitions = proxy.Transitions{
		Demoted:  choice(c, raw.OnDemoted, defaultOnDemoted, proxy.ParseHandling),
		Promoted: choice(c, raw.OnPromoted, defaultOnPromoted, proxy.ParseHandling),
		Lagging:  choice(c, raw.OnLagging, defaultOnLagging, proxy.ParseHandling),
	}
}

// age returns the age at which sessions move on, zero for never.
func (c *converter) age(a *hcl.Attribute) time.Duration {
	d := c.duration(a, 0, 0)
	if d > 0 && d < leastSessionAge {
		c.fail(a.Expr.Range(), "Duration too short",
			`Sessions that live for less than %v are a load of their own. Write a longer time, or "0s" to let them stay.`, leastSessionAge)
	}
	return d
}

// leastSessionAge keeps max_session_age from making logins the main work.
const leastSessionAge = 10 * time.Second

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
