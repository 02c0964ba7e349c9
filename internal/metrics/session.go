package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Session counts sessions that have the same labels. It is shared by all of them; a nil *Session counts nothing.
type Session struct {
	open               prometheus.Gauge
	opened             prometheus.Counter
	closed             *prometheus.CounterVec // by cause
	toServer, toClient prometheus.Counter
}

type sessionKey struct{ cluster, route, backend, role string }

// Session returns the counters for sessions of a route on a server. role is what the route asks for.
func (m *Metrics) Session(cluster, route, backend, role string) *Session {
	if m == nil {
		return nil
	}
	key := sessionKey{cluster, route, backend, role}
	if found, ok := m.sessions.Load(key); ok {
		return found.(*Session)
	}
	labels := prometheus.Labels{"cluster": cluster, "route": route, "backend": backend, "role": role}
	bytes := m.sessionBytes.MustCurryWith(labels)
	found, _ := m.sessions.LoadOrStore(key, &Session{
		open:     m.sessionsOpen.With(labels),
		opened:   m.sessionsOpened.With(labels),
		closed:   m.sessionsClosed.MustCurryWith(labels),
		toServer: bytes.WithLabelValues("to_server"),
		toClient: bytes.WithLabelValues("to_client"),
	})
	return found.(*Session)
}

// Opened counts a session that is logged in.
func (s *Session) Opened() {
	if s != nil {
		s.open.Inc()
		s.opened.Inc()
	}
}

// Closed counts the end of a session that was opened.
func (s *Session) Closed(cause string) {
	if s != nil {
		s.open.Dec()
		s.closed.WithLabelValues(cause).Inc()
	}
}

// Relayed counts bytes that were not counted before.
func (s *Session) Relayed(toServer, toClient uint64) {
	if s != nil {
		s.toServer.Add(float64(toServer))
		s.toClient.Add(float64(toClient))
	}
}

// LoggedIn counts the time of a login that succeeded. mode is the cluster's authentication.
func (m *Metrics) LoggedIn(cluster, mode string, took time.Duration) {
	if m != nil {
		m.loginDuration.WithLabelValues(cluster, mode).Observe(took.Seconds())
	}
}
