package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counters are the metrics of what happens.
type counters struct {
	handshakes        *prometheus.CounterVec
	handshakeDuration *prometheus.HistogramVec
	refusals          *prometheus.CounterVec
	loginDuration     *prometheus.HistogramVec
	sessionsOpen      *prometheus.GaugeVec
	sessionsOpened    *prometheus.CounterVec
	sessionsClosed    *prometheus.CounterVec
	sessionBytes      *prometheus.CounterVec
	cancels           *prometheus.CounterVec
	probeDuration     *prometheus.HistogramVec
	changes           *prometheus.CounterVec
	reloads           *prometheus.CounterVec
}

// Labels of a session.
var sessionLabels = []string{"cluster", "route", "backend", "role"}

// loginBuckets reach from a login on the same machine to the longest that a login may take by default.
var loginBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30}

func newCounters() counters {
	return counters{
		handshakes: counter("handshakes_total",
			"Connections by what came of them before the login, and the TLS version of those that got so far.", "result", "version"),
		handshakeDuration: histogram("handshake_duration_seconds",
			"Time from accept to the startup packet, of connections that sent one.", "version"),
		refusals: counter("refusals_total",
			"Logins that did not become sessions, by reason.", "cluster", "reason"),
		loginDuration: histogram("login_duration_seconds",
			"Time from the startup packet to the server's first ReadyForQuery, of logins that succeeded.", "cluster", "mode"),
		sessionsOpen: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "sessions", Help: "Sessions that are logged in.",
		}, sessionLabels),
		sessionsOpened: counter("sessions_opened_total", "Sessions that logged in.", sessionLabels...),
		sessionsClosed: counter("sessions_closed_total",
			"Sessions that ended after their login, by cause.", append(sessionLabels, "cause")...),
		sessionBytes: counter("session_bytes_total",
			"Bytes of the PostgreSQL protocol that were relayed, without TLS.", append(sessionLabels, "direction")...),
		cancels: counter("cancels_total", "CancelRequests by what came of them.", "result"),
		probeDuration: histogram("backend_probe_duration_seconds",
			"Time a server took to answer the monitor, or to fail to.", "cluster", "backend", "result"),
		changes: counter("backend_changes_total", "Changes of a server's role or status.", "cluster", "backend"),
		reloads: counter("reloads_total", "Reloads of the configuration.", "result"),
	}
}

func (c *counters) all() []prometheus.Collector {
	return []prometheus.Collector{
		c.handshakes, c.handshakeDuration, c.refusals, c.loginDuration, c.sessionsOpen, c.sessionsOpened, c.sessionsClosed,
		c.sessionBytes, c.cancels, c.probeDuration, c.changes, c.reloads,
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help, Buckets: loginBuckets,
	}, labels)
}

// Handshake counts a connection that became a client, or did not. version is empty for one without TLS; took counts only for
// result "client".
func (m *Metrics) Handshake(result, version string, took time.Duration) {
	if m == nil {
		return
	}
	m.handshakes.WithLabelValues(result, version).Inc()
	if result == "client" {
		m.handshakeDuration.WithLabelValues(version).Observe(took.Seconds())
	}
}

// Refused counts a login that did not become a session; cluster is empty where no route was found.
func (m *Metrics) Refused(cluster, reason string) {
	if m != nil {
		m.refusals.WithLabelValues(cluster, reason).Inc()
	}
}

// Cancelled counts a CancelRequest.
func (m *Metrics) Cancelled(result string) {
	if m != nil {
		m.cancels.WithLabelValues(result).Inc()
	}
}

// Probed counts a question to a server.
func (m *Metrics) Probed(cluster, backend string, answered bool, took time.Duration) {
	if m != nil {
		m.probeDuration.WithLabelValues(cluster, backend, result(answered)).Observe(took.Seconds())
	}
}

// Changed counts a change of a server's role or status.
func (m *Metrics) Changed(cluster, backend string) {
	if m != nil {
		m.changes.WithLabelValues(cluster, backend).Inc()
	}
}

// Reloaded counts a reload of the configuration.
func (m *Metrics) Reloaded(ok bool) {
	if m != nil {
		m.reloads.WithLabelValues(result(ok)).Inc()
	}
}

func result(ok bool) string {
	if ok {
		return "ok"
	}
	return "failed"
}
