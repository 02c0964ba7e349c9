package main

import (
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/policy"
)

// routes returns the routes of the file, or the default ones of its only cluster.
func (c *converter) routes(blocks []*rawRoute, clusters []*rawCluster) policy.Rules {
	var names []string
	for _, cluster := range clusters {
		names = append(names, cluster.Name)
	}
	if len(blocks) == 0 {
		if len(names) == 1 {
			return policy.Rules{Routes: policy.DefaultRoutes(names[0])}
		}
		if len(names) > 1 {
			c.fail(clusters[1].Def, "No routes between several clusters",
				`With more than one cluster the file has to say which database goes where. Add route { cluster = %q } or narrower ones.`, names[0])
		}
		return policy.Rules{}
	}
	var rules policy.Rules
	var sound []*rawRoute
	for _, raw := range blocks {
		before := len(c.diags)
		r := c.route(raw, names)
		if len(c.diags) == before { // a criterion that could not be read looks like none
			rules.Routes, sound = append(rules.Routes, r), append(sound, raw)
		}
	}
	c.unreachable(sound, rules.Routes)
	if len(sound) == len(blocks) {
		c.unused(clusters, rules.Routes)
	}
	return rules
}

func (c *converter) route(raw *rawRoute, clusters []string) policy.Route {
	before := len(c.diags)
	target := choice(c, raw.Role, defaultTarget, policy.ParseTarget)
	fallback := choice(c, raw.Fallback, defaultFallback, policy.ParseFallback)
	if raw.Fallback != nil && target != policy.TargetReplica && len(c.diags) == before {
		c.fail(raw.Fallback.Range, "Fallback without replicas",
			`fallback says what a route for replicas does without one; this route's role is %q. Remove it, or write role = "replica".`, target)
	}
	r := policy.Route{
		Database:        c.name(raw.Database, ""),
		DatabasePattern: c.pattern(raw.DatabasePattern),
		DatabaseSuffix:  c.name(raw.DatabaseSuffix, ""),
		User:            c.name(raw.User, ""),
		ServerName:      c.name(raw.SNI, ""),
		Cluster:         c.routeCluster(raw, clusters),
		Target:          target,
		Fallback:        fallback,
		Replication:     c.boolean(raw.Replication, false),
	}
	if a, b := firstTwo(raw.Database, raw.DatabasePattern, raw.DatabaseSuffix); b != nil {
		c.fail(b.Range, "Two rules for the database", "%s and %s are both set. A route has one of database, database_pattern and database_suffix.", a.Name, b.Name)
	}
	return r
}

// firstTwo returns the first two arguments that are set, in the order of the file.
func firstTwo(list ...*hcl.Attribute) (a, b *hcl.Attribute) {
	list = slices.DeleteFunc(list, func(a *hcl.Attribute) bool { return a == nil })
	slices.SortFunc(list, func(a, b *hcl.Attribute) int { return a.Range.Start.Byte - b.Range.Start.Byte })
	list = append(list, nil, nil)
	return list[0], list[1]
}

// routeCluster returns the cluster a route names, or the only one there is.
func (c *converter) routeCluster(raw *rawRoute, clusters []string) string {
	switch {
	case raw.Cluster != nil:
		name := c.text(raw.Cluster, "")
		if name != "" && !slices.Contains(clusters, name) {
			c.fail(raw.Cluster.Expr.Range(), "Unknown cluster", "No cluster is called %q. The file has %s.", name, quoted(clusters))
		}
		return name
	case len(clusters) == 1:
		return clusters[0]
	case len(clusters) > 1:
		c.fail(raw.Def, "Which cluster?", `With several clusters a route has to name one: cluster = %q.`, clusters[0])
	}
	return ""
}

// unreachable reports routes that stand behind another which takes all they would take.
func (c *converter) unreachable(blocks []*rawRoute, routes []policy.Route) {
	for i := range routes {
		for j := range i {
			if routes[j].Covers(&routes[i]) {
				c.fail(blocks[i].Def, "Unreachable route",
					"The route on line %d takes everything this one would take. Put this one before it, or remove it.", blocks[j].Def.Start.Line)
				break
			}
		}
	}
}

// unused warns of clusters that are watched but never given a session.
func (c *converter) unused(clusters []*rawCluster, routes []policy.Route) {
	for _, cluster := range clusters {
		leads := func(r policy.Route) bool { return r.Cluster == cluster.Name }
		if !slices.ContainsFunc(routes, leads) {
			c.warn(cluster.NameRange, "Cluster without a route", "No route leads to cluster %q. Add route { cluster = %q }.", cluster.Name, cluster.Name)
		}
	}
}
