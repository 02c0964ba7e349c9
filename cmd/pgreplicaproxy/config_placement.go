package main

import "github.com/replicon/pgreplicaproxy/internal/proxy"

// placement reads what a cluster says about where sessions go and how long they stay.
func (c *converter) placement(raw *rawCluster, cfg *proxy.ClusterConfig) {
	cfg.Transitions = proxy.Transitions{
		Demoted:  choice(c, raw.OnDemoted, defaultOnDemoted, proxy.ParseHandling),
		Promoted: choice(c, raw.OnPromoted, defaultOnPromoted, proxy.ParseHandling),
		Lagging:  choice(c, raw.OnLagging, defaultOnLagging, proxy.ParseHandling),
	}
}
