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
	// Certificates returns the front's certificates.
	Certificates func() []Certificate
}

// Certificate is what a certificate of the front is known by.
type Certificate struct {
	// Names are the names it is for.
	Names    []string
	NotAfter time.Time
	// Failing is true when the last attempt to replace it failed.
	Failing bool
}

// gauges are the metrics of what is.
type gauges struct {
	sources Sources

	role, status, timeline, conflict *prometheus.Desc
	finding                          *prometheus.Desc
	logins                           *prometheus.Desc
	notAfter, failing                *prometheus.Desc
}

func newGauges(s Sources) *gauges {
	return &gauges{
		sources:  s,
		role:     desc("backend_role", "1 for the role that new sessions may use the server as, 0 for the others.", "cluster", "backend", "role"),
		status:   desc("backend_status", "1 for what the monitor finds the server to be, 0 for anything else.", "cluster", "backend", "status"),
		timeline: desc("backend_timeline", "Timeline of a server, as far as it is known.", "cluster", "backend"),
		conflict: desc("cluster_conflict", "1 while several servers of the cluster claim to be the primary.", "cluster"),
		finding:  desc("backend_finding", "1 for each thing to mend in a server's access rules.", "cluster", "backend", "finding"),
		logins:   desc("logins", "Clients that are logging in."),
		notAfter: desc("certificate_not_after_timestamp_seconds", "When a certificate of the front expires.", "names"),
		failing:  desc("certificate_renewal_failing", "1 while a certificate of the front cannot be replaced by a newer one.", "names"),
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.role, g.status, g.timeline, g.conflict, g.finding, g.logins, g.notAfter, g.failing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	if g.sources.Snapshots != nil {
		for cluster, snapshot := range g.sources.Snapshots() {
			g.collectCluster(ch, cluster, snapshot)
		}
	}
	if g.sources.Findings != nil {
		for cluster, servers := range g.sources.Findings() {
			for backend, findings := range servers {
				for _, finding := range findings {
					gauge(ch, g.finding, 1, cluster, backend, finding)
				}
			}
		}
	}
	if g.sources.Logins != nil {
		gauge(ch, g.logins, float64(g.sources.Logins()))
	}
	if g.sources.Certificates != nil {
		for _, c := range g.sources.Certificates() {
			names := slices.Sorted(slices.Values(c.Names))
			gauge(ch, g.notAfter, float64(c.NotAfter.Unix()), strings.Join(names, " "))
			gauge(ch, g.failing, number(c.Failing), strings.Join(names, " "))
		}
	}
}

func (g *gauges) collectCluster(ch chan<- prometheus.Metric, cluster string, snapshot *backends.Snapshot) {
	conflict := false
	for _, st := range snapshot.States {
		name := st.Target.Name
		for _, role := range []policy.Role{policy.Primary, policy.Replica, policy.Unknown} {
			gauge(ch, g.role, number(st.Role == role), cluster, name, role.String())
		}
		for _, status := range backends.Statuses() {
			gauge(ch, g.status, number(st.Status == status), cluster, name, status.String())
		}
		if st.Timeline > 0 {
			gauge(ch, g.timeline, float64(st.Timeline), cluster, name)
		}
		conflict = conflict || st.Status == backends.Conflict
	}
	gauge(ch, g.conflict, number(conflict), cluster)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
