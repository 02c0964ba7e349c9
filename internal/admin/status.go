package admin

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// Sources are asked for what the listener tells. All but Snapshots may be nil, and then have nothing to tell.
type Sources struct {
	Version string
	Started time.Time
	// Snapshots returns what is known of each cluster's servers, by the cluster's name.
	Snapshots func() map[string]*backends.Snapshot
	// Clusters returns what else there is to say of the cluster of that name; only fields that Snapshots do not fill are taken.
	Clusters func(name string) Cluster
	// Standing tells whether an operator took a server out of service, and whether it is passed over because clients have failed
	// to reach it.
	Standing func(cluster, backend string) (drained, ejected bool)
	// Access returns what is known of the way that logins take to each server, by the names of cluster and server.
	Access func() map[string]map[string]Access
	// Sessions returns the sessions of now.
	Sessions func() []Session
	// Routes returns the routes in the order of the configuration, without their sessions.
	Routes func() []Route
	// Certificates returns the front's certificates.
	Certificates func() []Certificate
	// NotReady says what else keeps clients from being served properly, one sentence each; nothing is fine.
	NotReady func() []string
}

// Status is what GET /status tells; docs/status.schema.json describes it. Fields may be added, and never change their meaning.
type Status struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Time    time.Time `json:"time"`
	// Sessions counts all that are logged in, Logins those on their way.
	Sessions int `json:"sessions"`
	Logins   int `json:"logins"`
	// Clusters are in the order of their names.
	Clusters     []Cluster     `json:"clusters"`
	Routes       []Route       `json:"routes"`
	Certificates []Certificate `json:"certificates"`
}

// Cluster is a cluster at one moment.
type Cluster struct {
	Name string `json:"name"`
	// Authentication is "relay" or "scram_passthrough".
	Authentication string `json:"authentication,omitempty"`
	// Conflict is true while several servers claim to be the primary.
	Conflict bool `json:"conflict"`
	// StateFile says why what is known of the cluster's past cannot be stored or read, empty when all is well.
	StateFile string `json:"state_file,omitempty"`
	// Waiting counts clients that are held until a server can take them.
	Waiting int `json:"waiting"`
	// Servers are the primary first, then the others in the order of the configuration.
	Servers []Server `json:"servers"`
}

// Server is a server at one moment.
type Server struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Role is what new sessions may use it as: "primary", "replica" or "unknown"; Claim is what it says itself.
	Role  string `json:"role"`
	Claim string `json:"claim"`
	// Status is a word of backends.Status, and Detail says what is wrong, empty when nothing is.
	Status string `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Reason says why the primary is the primary, where there was a choice.
	Reason string `json:"reason,omitempty"`
	// Since is when Role or Status changed last.
	Since time.Time `json:"since"`
	// Drained is true while an operator keeps sessions away.
	Drained bool `json:"drained"`
	// Ejected is true while sessions are placed elsewhere because clients have failed to reach it.
	Ejected bool   `json:"ejected"`
	Weight  int    `json:"weight"`
	Zone    string `json:"zone,omitempty"`
	// Timeline is zero where it is not known.
	Timeline uint32 `json:"timeline,omitempty"`
	// Version is the server's, such as "17.2 (Debian 17.2-1)".
	Version string `json:"version,omitempty"`
	// Upstream is the server that a standby receives from, where it is known.
	Upstream string `json:"upstream,omitempty"`
	// LagBytes and LagSeconds are how far a replica is behind, null where that is not known.
	LagBytes   *uint64  `json:"lag_bytes"`
	LagSeconds *float64 `json:"lag_seconds"`
	// Lagging is true while the replica is further behind than the cluster allows.
	Lagging bool `json:"lagging"`
	// Sessions counts those on the server.
	Sessions int `json:"sessions"`
	// Access is null before the server was looked at.
	Access *Access `json:"access"`
}

// Access is the way that logins take to a server.
type Access struct {
	// Binding is "end-to-end", "passthrough", "plain", "broken" or "unknown": see docs/authentication.md.
	Binding string `json:"binding"`
	// Findings are what to mend on the server, a sentence each that says how.
	Findings []string `json:"findings"`
}

// Route is a route at one moment.
type Route struct {
	// Name says what it takes: "*_replica", "app user=bob".
	Name    string `json:"name"`
	Cluster string `json:"cluster"`
	Role    string `json:"role"`
	// Sessions counts them by the server they are on.
	Sessions map[string]int `json:"sessions"`
}

// Session is a session at one moment.
type Session struct {
	ID       uint64 `json:"id"`
	Client   string `json:"client"`
	User     string `json:"user"`
	Database string `json:"database"`
	Route    string `json:"route"`
	Cluster  string `json:"cluster"`
	Backend  string `json:"backend"`
	// State is "login", "idle", "active" or "ending".
	State string    `json:"state"`
	Since time.Time `json:"since"`
	// ToServer and ToClient are bytes of the protocol.
	ToServer uint64 `json:"to_server"`
	ToClient uint64 `json:"to_client"`
}

// SessionList is what GET /sessions tells, the oldest first.
type SessionList struct {
	Sessions []Session `json:"sessions"`
}

// Certificate is a certificate of the front.
type Certificate struct {
	Names []string `json:"names"`
	// Source is "file", "acme" or "local CA".
	Source string `json:"source"`
	Issuer string `json:"issuer,omitempty"`
	// NotAfter is when it expires; null for one that is not there yet.
	NotAfter *time.Time `json:"not_after"`
	// Renewed is when the program took it into use; null for one that is not there yet.
	Renewed *time.Time `json:"renewed"`
	// ExpiresSoon is true when whoever renews it has missed a turn.
	ExpiresSoon bool `json:"expires_soon"`
	// LastError says why it could not be replaced the last time, empty when that went well.
	LastError string `json:"last_error,omitempty"`
}

// Status puts together what is so now.
func (s *Sources) Status() Status {
	st := Status{
		Version: s.Version, Started: s.Started, Time: time.Now(), Clusters: []Cluster{}, Routes: []Route{}, Certificates: []Certificate{},
	}
	if s.Routes != nil {
		st.Routes = append(st.Routes, s.Routes()...)
	}
	if s.Certificates != nil {
		st.Certificates = append(st.Certificates, s.Certificates()...)
	}
	snapshots := s.Snapshots()
	var access map[string]map[string]Access
	if s.Access != nil {
		access = s.Access()
	}
	for _, name := range slices.Sorted(maps.Keys(snapshots)) {
		st.Clusters = append(st.Clusters, s.clusterStatus(name, snapshots[name], access[name]))
	}
	s.countSessions(&st)
	return st
}

func (s *Sources) clusterStatus(name string, snapshot *backends.Snapshot, access map[string]Access) Cluster {
	var c Cluster
	if s.Clusters != nil {
		c = s.Clusters(name)
	}
	c.Name, c.Servers = name, []Server{}
	if err := snapshot.Judgement.StateFileError; err != nil {
		c.StateFile = err.Error()
	}
	for i := range snapshot.States {
		state := &snapshot.States[i]
		server := serverStatus(state)
		if known, ok := access[server.Name]; ok {
			server.Access = &known
		}
		if s.Standing != nil {
			server.Drained, server.Ejected = s.Standing(name, server.Name)
		}
		c.Conflict = c.Conflict || state.Status == backends.Conflict || state.Status == backends.Quarantined
		c.Servers = append(c.Servers, server)
	}
	first := func(s Server) int { // the primary
		if s.Role == policy.Primary.String() {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(c.Servers, func(a, b Server) int { return cmp.Compare(first(a), first(b)) })
	return c
}

func serverStatus(st *backends.State) Server {
	s := Server{
		Name: st.Target.Name, Address: st.Target.Address, Role: st.Role.String(), Claim: st.Claim.String(),
		Status: st.Status.String(), Detail: st.Detail, Since: st.Since, Weight: st.Target.Weight,
		Zone: st.Target.Zone, Timeline: st.Timeline, Version: st.ServerVersion, Upstream: st.Upstream,
		Lagging: st.Lagging, Reason: st.Reason,
	}
	if st.LagBytesKnown {
		s.LagBytes = &st.LagBytes
	}
	if st.LagTimeKnown {
		seconds := st.LagTime.Seconds()
		s.LagSeconds = &seconds
	}
	return s
}

// countSessions fills in the numbers of sessions.
func (s *Sources) countSessions(st *Status) {
	for i := range st.Routes {
		st.Routes[i].Sessions = map[string]int{}
	}
	if s.Sessions == nil {
		return
	}
	for _, sess := range s.Sessions() {
		if sess.State == "login" {
			st.Logins++
			continue
		}
		st.Sessions++
		for i := range st.Routes {
			if st.Routes[i].Name == sess.Route && st.Routes[i].Cluster == sess.Cluster {
				st.Routes[i].Sessions[sess.Backend]++
				break
			}
		}
		for i := range st.Clusters {
			if st.Clusters[i].Name == sess.Cluster {
				st.Clusters[i].count(sess.Backend)
			}
		}
	}
}

func (c *Cluster) count(backend string) {
	for i := range c.Servers {
		if c.Servers[i].Name == backend {
			c.Servers[i].Sessions++
		}
	}
}

func (s *Sources) sessionList() SessionList {
	list := SessionList{Sessions: []Session{}}
	if s.Sessions != nil {
		list.Sessions = append(list.Sessions, s.Sessions()...)
	}
	return list
}
