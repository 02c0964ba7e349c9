package policy

import (
	"fmt"
	"net/netip"
)

// Request is what is known of a client when its session is to be placed.
type Request struct {
	// Database is the name asked for; where the client named none, its user name, as PostgreSQL has it.
	Database string
	User     string
	// ServerName is the name the client sent in TLS, empty when it sent none.
	ServerName string
	// Replication is true for a connection that asked for the replication protocol, physical or logical.
	Replication bool
	// Address is where the client comes from; the zero value is a unix socket. Routes do not look at it, access rules do.
	Address netip.Addr
	// Replayed is the position in the write-ahead log (an LSN) that a replica must have replayed to take the session, so that
	// it reads what was written up to there; zero is any.
	Replayed uint64
	// TLS is true for a connection with TLS, Certificate for one whose client has shown a certificate that was verified.
	TLS, Certificate bool
}

// Backend is one server as a decision sees it.
type Backend struct {
	// Name is the server's name, unique in its cluster.
	Name string
	Role Role
	// Weight is the server's share of sessions against its peers; zero and less keep new sessions away.
	Weight int
	// Zone is where the server stands, as the configuration names places; empty for nowhere in particular.
	Zone string
	// Lagging is a replica that is further behind than the cluster allows, as the monitor judges it with hysteresis.
	Lagging bool
	// Replayed is the position in the write-ahead log (an LSN) up to which a replica is known to have replayed; zero when
	// that is not known.
	Replayed uint64
	// Load is the number of sessions that the proxy has on the server, those logging in included.
	Load int
	// Cold is the part of its weight that does not count yet, from 0 to 1: a server that has come back takes its share step
	// by step.
	Cold float64
	// Ejected is a server that has failed several clients in a row. It is tried when all others have failed.
	Ejected bool
	// Draining is a server that an operator has taken out of service: no new session goes there.
	Draining bool
	// Detail says in a few words why the role is what it is ("refused connections since 12:00:03"), for messages.
	Detail string
}

// View is what is known of every cluster at one moment, by the cluster's name. A decision only reads it.
type View map[string][]Backend

// Verdict is what is to be done with a request. The zero value is [Refuse].
type Verdict uint8

const (
	// Refuse ends the session with an error that no waiting would mend: no route takes it.
	Refuse Verdict = iota
	// Wait is for a request that has a route and a cluster, but no server there that may serve it now.
	Wait
	// Serve hands the session to one of Decision.Backends.
	Serve
)

// Decision is where a session goes, or why it does not.
type Decision struct {
	Verdict Verdict
	// Route is the index of the route taken in Rules.Routes, -1 for none.
	Route int
	// Cluster, Target and Fallback are the route's.
	Cluster  string
	Target   Target
	Fallback Fallback
	// Database is the name that the server is to see.
	Database string
	// Backends are the servers to try, in this order. It is not empty when the verdict is Serve. With Wait they are those
	// to use when waiting has brought nothing better.
	Backends []string
	// Reason says in one sentence why a session is not served, fit for the client and for the log.
	Reason string
}

// Rules are the routes, in the order of the file. The first one that matches decides, except that routes which name
// their database in full are looked at before all others. Rules are read only once in use.
type Rules struct {
	Routes []Route
	// Access says who may come in, in the order of the file; see Enter. Decide does not ask it.
	Access []Access
	// Zone is where the proxy stands: servers of the same zone come before all others. Empty for no preference.
	Zone string
}

// Decide places one request. It is a pure function: roll returns a random number in [0,1), is called once for each
// candidate, and is the only source of chance.
//
// Example: with the default routes and a view of db1 (primary), db2 and db3 (replicas), a request for "app" is served by
// db1 as database "app"; one for "app_replica" by db2 and db3, the less busy one first, as database "app".
func (r Rules) Decide(q Request, v View, roll func() float64) Decision {
	i, database := r.route(q)
	if i < 0 {
		return Decision{Route: -1, Reason: noRoute(q)}
	}
	route := &r.Routes[i]
	d := Decision{
		Route: i, Cluster: route.Cluster, Target: route.Target, Fallback: route.Fallback, Database: database,
	}
	backends := v[route.Cluster]
	able, wait := candidates(route, q.Replayed, backends)
	d.Backends = r.order(able, roll)
	d.Verdict = Serve
	if wait {
		d.Verdict, d.Reason = Wait, unavailable(route, q.Replayed, backends)
	}
	return d
}

// Cluster returns the cluster that a request goes to, empty if no route takes it.
func (r Rules) Cluster(q Request) string {
	i, _ := r.route(q)
	if i < 0 {
		return ""
	}
	return r.Routes[i].Cluster
}

// route returns the index of the route that takes q, or -1, and the database name it leaves.
func (r Rules) route(q Request) (int, string) {
	for _, exact := range []bool{true, false} {
		for i := range r.Routes {
			if r.Routes[i].exact() != exact {
				continue
			}
			if database, ok := r.Routes[i].match(q); ok {
				return i, database
			}
		}
	}
	return -1, ""
}

func noRoute(q Request) string {
	what := "database"
	if q.Replication {
		what = "replication connections for database"
	}
	return fmt.Sprintf("no route takes %s %q as user %q", what, shorten(q.Database), shorten(q.User))
}

// shorten cuts a name that a client has sent to what a message needs: a server knows no longer ones than 63 bytes.
func shorten(name string) string {
	const most = 64
	if len(name) <= most {
		return name
	}
	return name[:most] + "…"
}
