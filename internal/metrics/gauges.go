package metrics

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// Sources are asked when the metrics are. A nil one has nothing to tell.
type Sources struct {
	// Snapshots returns what is known of each cluster's servers, by the cluster's name.
	Snapshots func() map[string]*backends.Snapshot
	// Findings returns what an operator should mend on each server, in words of a closed list, by the names of cluster and
	// server.
	Findings func() map[string]map[string][]string
	// Logins returns the number of clients that are logging in.
	Logins func() int
	// Holds returns what is known of sessions that are made to wait, by cluster.
	Holds func() map[string]Holds
	// Standing tells whether an operator took a server out of service, and whether it is passed over because clients have failed
	// to reach it.
	Standing func(cluster, backend string) (drained, ejected bool)
	// Limits returns what the limits have done.
	Limits func() Limits
	// Certificates returns the front's certificates.
	Certificates func() []Certificate
}

// Holds are the sessions of a cluster that are made to wait for a server.
type Holds struct {
	Waiting int
	// Ended counts waits by their outcome.
	Ended map[string]uint64
}

// Limits are what the limits on clients have done since the start.
type Limits struct {
	// Refused counts refusals that a limit was the reason of, Flooded connections that were closed without a word, Throttled
	// logins that had to wait, or were refused, because of failed ones.
	Refused, Flooded, Throttled uint64
	// Pairs is how many pairs of address and user are remembered for failed logins.
	Pairs int
}

// Certificate is what a certificate of the front is known by.
type Certificate struct {
	// Names are the names it is for.
	Names []string
	// NotAfter is when it expires, Renewed when it was taken into use; the zero time for one that is not there yet.
	NotAfter, Renewed time.Time
	// ExpiresSoon is true when it has expired, or when whoever renews it has missed a turn.
	ExpiresSoon bool
	// Failing is true when the last attempt to replace it failed.
	Failing bool
}

// What the gauges are called.
var (
	roleDesc      = desc("backend_role", "1 for the role that new sessions may use the server as, 0 for the others.", "cluster", "backend", "role")
	statusDesc    = desc("backend_status", "1 for what the monitor finds the server to be, 0 for anything else.", "cluster", "backend", "status")
	timelineDesc  = desc("backend_timeline", "Timeline of a server, as far as it is known.", "cluster", "backend")
	lagBytesDesc  = desc("backend_lag_bytes", "How much of the log a replica has not replayed, as far as it is known.", "cluster", "backend")
	lagTimeDesc   = desc("backend_lag_seconds", "How long ago the primary wrote what a replica replays now, as far as it is known.", "cluster", "backend")
	laggingDesc   = desc("backend_lagging", "1 while a replica is further behind than max_lag allows.", "cluster", "backend")
	drainedDesc   = desc("backend_drained", "1 while an operator keeps sessions away from the server.", "cluster", "backend")
	ejectedDesc   = desc("backend_ejected", "1 while sessions are placed elsewhere because clients have failed to reach the server.", "cluster", "backend")
	findingDesc   = desc("backend_finding", "1 for each thing to mend in a server's access rules.", "cluster", "backend", "finding")
	conflictDesc  = desc("cluster_conflict", "1 while several servers of the cluster claim to be the primary.", "cluster")
	stateFileDesc = desc("cluster_state_file_failing", "1 while what is known of the cluster's past cannot be read or stored.", "cluster")
	waitingDesc   = desc("waiting", "Clients that are made to wait until a server can take them.", "cluster")
	holdsDesc     = desc("holds_total", "Waits of clients for a server, by how they ended.", "cluster", "outcome")
	limitedDesc   = desc("limited_total", "Clients that a limit has turned away.")
	floodedDesc   = desc("flooded_connections_total", "Connections that were closed without a word because too many came.")
	throttledDesc = desc("throttled_logins_total", "Logins that had to wait, or were refused, because of failed ones before.")
	pairsDesc     = desc("throttle_pairs", "Pairs of address and user that are remembered for failed logins.")
	loginsDesc    = desc("logins", "Clients that are logging in.")
	notAfterDesc  = desc("certificate_not_after_timestamp_seconds", "When a certificate of the front expires.", "names")
	expiresDesc   = desc("certificate_expires_soon", "1 for a certificate of the front that has expired, or whose renewal has missed a turn.", "names")
	renewedDesc   = desc("certificate_renewed_timestamp_seconds", "When a certificate of the front was taken into use.", "names")
	failingDesc   = desc("certificate_renewal_failing", "1 while a certificate of the front cannot be replaced by a newer one.", "names")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// gauges are the metrics of what is.
type gauges struct{ sources Sources }

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		roleDesc, statusDesc, timelineDesc, lagBytesDesc, lagTimeDesc, laggingDesc, drainedDesc, ejectedDesc, findingDesc,
		conflictDesc, stateFileDesc, waitingDesc, holdsDesc, limitedDesc, floodedDesc, throttledDesc, pairsDesc, loginsDesc, notAfterDesc, expiresDesc, renewedDesc, failingDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	if g.sources.Snapshots != nil {
		for cluster, snapshot := range g.sources.Snapshots() {
			g.collectCluster(ch, cluster, snapshot)
		}
	}
	if g.sources.Findings != nil {
		for cluster, servers := range g.sources.Findings() {
			for backend, findings := range servers {
				for _, finding := range findings {
					gauge(ch, findingDesc, 1, cluster, backend, finding)
				}
			}
		}
	}
	if g.sources.Holds != nil {
		for cluster, holds := range g.sources.Holds() {
			gauge(ch, waitingDesc, float64(holds.Waiting), cluster)
			for outcome, n := range holds.Ended {
				total(ch, holdsDesc, n, cluster, outcome)
			}
		}
	}
	if g.sources.Limits != nil {
		limits := g.sources.Limits()
		total(ch, limitedDesc, limits.Refused)
		total(ch, floodedDesc, limits.Flooded)
		total(ch, throttledDesc, limits.Throttled)
		gauge(ch, pairsDesc, float64(limits.Pairs))
	}
	if g.sources.Logins != nil {
		gauge(ch, loginsDesc, float64(g.sources.Logins()))
	}
	if g.sources.Certificates != nil {
		for _, c := range g.sources.Certificates() {
			names := strings.Join(slices.Sorted(slices.Values(c.Names)), " ")
			gauge(ch, notAfterDesc, float64(c.NotAfter.Unix()), names)
			gauge(ch, expiresDesc, number(c.ExpiresSoon), names)
			gauge(ch, renewedDesc, float64(c.Renewed.Unix()), names)
			gauge(ch, failingDesc, number(c.Failing), names)
		}
	}
}

func (g gauges) collectCluster(ch chan<- prometheus.Metric, cluster string, snapshot *backends.Snapshot) {
	conflict := false
	for i := range snapshot.States {
		st := &snapshot.States[i]
		g.collectServer(ch, cluster, st)
		conflict = conflict || st.Status == backends.Conflict || st.Status == backends.Quarantined
	}
	gauge(ch, conflictDesc, number(conflict), cluster)
	gauge(ch, stateFileDesc, number(snapshot.Judgement.StateFileError != nil), cluster)
}

func (g gauges) collectServer(ch chan<- prometheus.Metric, cluster string, st *backends.State) {
	name := st.Target.Name
	for _, role := range []policy.Role{policy.Primary, policy.Replica, policy.Unknown} {
		gauge(ch, roleDesc, number(st.Role == role), cluster, name, role.String())
	}
	for _, status := range backends.Statuses() {
		gauge(ch, statusDesc, number(st.Status == status), cluster, name, status.String())
	}
	if st.Timeline > 0 {
		gauge(ch, timelineDesc, float64(st.Timeline), cluster, name)
	}
	if st.LagBytesKnown {
		gauge(ch, lagBytesDesc, float64(st.LagBytes), cluster, name)
	}
	if st.LagTimeKnown {
		gauge(ch, lagTimeDesc, st.LagTime.Seconds(), cluster, name)
	}
	gauge(ch, laggingDesc, number(st.Lagging), cluster, name)
	if g.sources.Standing != nil {
		drained, ejected := g.sources.Standing(cluster, name)
		gauge(ch, drainedDesc, number(drained), cluster, name)
		gauge(ch, ejectedDesc, number(ejected), cluster, name)
	}
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func total(ch chan<- prometheus.Metric, d *prometheus.Desc, n uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
