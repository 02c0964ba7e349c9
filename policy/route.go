package policy

import (
	"path"
	"strings"
)

// Route says which requests it takes and where they go. Every criterion that is set must match; a criterion left empty
// matches everything. At most one of Database, DatabasePattern and DatabaseSuffix is set.
type Route struct {
	// Database matches one database name, byte for byte.
	Database string
	// DatabasePattern matches database names as path.Match does: * for any run of characters but /, ? for one, [a-z] for a
	// class.
	DatabasePattern string
	// DatabaseSuffix matches names that end in it and have something before it; the suffix is removed before the
	// server sees the name.
	DatabaseSuffix string
	// User matches one user name, byte for byte.
	User string
	// ServerName matches the name the client sent in TLS (SNI), without regard to case.
	ServerName string

	// Cluster names the cluster that serves the route.
	Cluster string
	// Target is the role of server asked for.
	Target Target
	// Fallback says whether a route for replicas may use the primary.
	Fallback Fallback
	// Replication makes the route take replication connections, and only those; without it, none.
	Replication bool
}

// String names the route by what it takes, for logs and metrics: "*_replica", "app user=bob", "* replication".
func (r *Route) String() string {
	name := "*"
	switch {
	case r.Database != "":
		name = r.Database
	case r.DatabasePattern != "":
		name = r.DatabasePattern
	case r.DatabaseSuffix != "":
		name = "*" + r.DatabaseSuffix
	}
	if r.User != "" {
		name += " user=" + r.User
	}
	if r.ServerName != "" {
		name += " sni=" + r.ServerName
	}
	if r.Replication {
		name += " replication"
	}
	return name
}

// exact reports whether r names its database in full. Such routes are looked at first, so that a real database whose
// name ends in a suffix stays reachable however the file orders them.
func (r *Route) exact() bool { return r.Database != "" }

// match returns the database name the server is to see, and whether the route takes the request.
func (r *Route) match(q Request) (string, bool) {
	if r.Replication != q.Replication ||
		r.User != "" && r.User != q.User ||
		r.ServerName != "" && !strings.EqualFold(r.ServerName, q.ServerName) {
		return "", false
	}
	switch {
	case r.Database != "":
		return q.Database, r.Database == q.Database
	case r.DatabasePattern != "":
		ok, err := path.Match(r.DatabasePattern, q.Database)
		return q.Database, ok && err == nil
	case r.DatabaseSuffix != "":
		name, ok := strings.CutSuffix(q.Database, r.DatabaseSuffix)
		return name, ok && name != ""
	default:
		return q.Database, true
	}
}

// Covers reports whether r takes every request that later would take, so that later, standing behind r, is never
// reached. It answers true only when that is certain.
func (r *Route) Covers(later *Route) bool {
	if r.Replication != later.Replication ||
		!r.exact() && later.exact() || // exact routes are looked at first, wherever they stand
		r.User != "" && r.User != later.User ||
		r.ServerName != "" && !strings.EqualFold(r.ServerName, later.ServerName) {
		return false
	}
	switch {
	case r.Database != "":
		return r.Database == later.Database
	case r.DatabasePattern != "":
		return r.DatabasePattern == later.DatabasePattern
	case r.DatabaseSuffix != "":
		return later.DatabaseSuffix != "" && strings.HasSuffix(later.DatabaseSuffix, r.DatabaseSuffix)
	default:
		return true
	}
}

// DefaultRoutes are the two routes of a configuration that names none: database names ending in _replica go to a
// replica of the cluster, all others to its primary.
func DefaultRoutes(cluster string) []Route {
	return []Route{
		{DatabaseSuffix: "_replica", Cluster: cluster, Target: TargetReplica},
		{Cluster: cluster, Target: TargetPrimary},
	}
}
