package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// scrape returns the lines of the program's own metrics, as Prometheus gets them.
func scrape(t *testing.T, m *Metrics, update func()) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler(update).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("got %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// wantLines fails for each line that is missing.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

func TestCounters(t *testing.T) {
	m := New("1.2.3", "go1")
	m.Handshake("client", "TLS 1.3", 3*time.Millisecond)
	m.Handshake("left", "none", time.Hour)
	m.Refused("main", "no_server")
	m.Cancelled("passed")
	m.Probed("main", "db1", true, 2*time.Millisecond)
	m.Probed("main", "db1", false, time.Second)
	m.Changed("main", "db1")
	m.Reloaded(false)
	m.LoggedIn("main", "relay", 20*time.Millisecond)
	for range 3 {
		m.Session("main", "*", "db1", "primary").Opened()
	}
	s := m.Session("main", "*", "db1", "primary")
	s.Relayed(100, 2000)
	s.Closed("client_closed")
	updated := false
	wantLines(t, scrape(t, m, func() { updated = true; s.Relayed(1, 2) }),
		`pgreplicaproxy_build_info{go_version="go1",version="1.2.3"} 1`,
		`pgreplicaproxy_handshakes_total{result="client",version="TLS 1.3"} 1`,
		`pgreplicaproxy_handshakes_total{result="left",version="none"} 1`,
		`pgreplicaproxy_handshake_duration_seconds_count{version="TLS 1.3"} 1`,
		`pgreplicaproxy_refusals_total{cluster="main",reason="no_server"} 1`,
		`pgreplicaproxy_cancels_total{result="passed"} 1`,
		`pgreplicaproxy_backend_probe_duration_seconds_bucket{backend="db1",cluster="main",result="ok",le="0.0025"} 1`,
		`pgreplicaproxy_backend_probe_duration_seconds_count{backend="db1",cluster="main",result="failed"} 1`,
		`pgreplicaproxy_backend_changes_total{backend="db1",cluster="main"} 1`,
		`pgreplicaproxy_reloads_total{result="failed"} 1`,
		`pgreplicaproxy_login_duration_seconds_count{cluster="main",mode="relay"} 1`,
		`pgreplicaproxy_sessions{backend="db1",cluster="main",role="primary",route="*"} 2`,
		`pgreplicaproxy_sessions_opened_total{backend="db1",cluster="main",role="primary",route="*"} 3`,
		`pgreplicaproxy_sessions_closed_total{backend="db1",cause="client_closed",cluster="main",role="primary",route="*"} 1`,
		`pgreplicaproxy_session_bytes_total{backend="db1",cluster="main",direction="to_server",role="primary",route="*"} 101`,
		`pgreplicaproxy_session_bytes_total{backend="db1",cluster="main",direction="to_client",role="primary",route="*"} 2002`,
	)
	if !updated {
		t.Error("nothing was brought up to date before the answer")
	}
}

func TestGauges(t *testing.T) {
	m := New("", "")
	expiry := time.Unix(2_000_000_000, 0)
	m.Watch(Sources{
		Snapshots: func() map[string]*backends.Snapshot {
			return map[string]*backends.Snapshot{"main": {States: []backends.State{
				{Target: backends.Target{Name: "db1"}, Status: backends.Conflict, Claim: policy.Primary, Timeline: 7},
				{Target: backends.Target{Name: "db2"}, Status: backends.Up, Role: policy.Replica, LagBytes: 5, LagBytesKnown: true, LagTime: 1500 * time.Millisecond, LagTimeKnown: true, Lagging: true},
			}}}
		},
		Findings: func() map[string]map[string][]string {
			return map[string]map[string][]string{"main": {"db2": {"trust"}}}
		},
		Logins: func() int { return 3 },
		Holds: func() map[string]Holds {
			return map[string]Holds{"main": {Waiting: 2, Ended: map[string]uint64{"expired": 4}}}
		},
		Limits:   func() Limits { return Limits{Refused: 6, Flooded: 7, Throttled: 8, Pairs: 9} },
		Standing: func(_, backend string) (drained, ejected bool) { return backend == "db1", backend == "db2" },
		Certificates: func() []Certificate {
			return []Certificate{{Names: []string{"b", "a"}, NotAfter: expiry, Renewed: expiry.Add(-time.Second), ExpiresSoon: true, Failing: true}}
		},
	})
	wantLines(t, scrape(t, m, nil),
		`pgreplicaproxy_backend_role{backend="db1",cluster="main",role="unknown"} 1`,
		`pgreplicaproxy_backend_role{backend="db1",cluster="main",role="primary"} 0`,
		`pgreplicaproxy_backend_role{backend="db2",cluster="main",role="replica"} 1`,
		`pgreplicaproxy_backend_status{backend="db1",cluster="main",status="conflict"} 1`,
		`pgreplicaproxy_backend_status{backend="db2",cluster="main",status="up"} 1`,
		`pgreplicaproxy_backend_status{backend="db2",cluster="main",status="down"} 0`,
		`pgreplicaproxy_backend_timeline{backend="db1",cluster="main"} 7`,
		`pgreplicaproxy_cluster_conflict{cluster="main"} 1`,
		`pgreplicaproxy_backend_finding{backend="db2",cluster="main",finding="trust"} 1`,
		`pgreplicaproxy_cluster_state_file_failing{cluster="main"} 0`,
		`pgreplicaproxy_backend_lag_bytes{backend="db2",cluster="main"} 5`,
		`pgreplicaproxy_backend_lag_seconds{backend="db2",cluster="main"} 1.5`,
		`pgreplicaproxy_backend_lagging{backend="db2",cluster="main"} 1`,
		`pgreplicaproxy_backend_drained{backend="db1",cluster="main"} 1`,
		`pgreplicaproxy_backend_ejected{backend="db2",cluster="main"} 1`,
		`pgreplicaproxy_waiting{cluster="main"} 2`,
		`pgreplicaproxy_holds_total{cluster="main",outcome="expired"} 4`,
		`pgreplicaproxy_limited_total 6`,
		`pgreplicaproxy_flooded_connections_total 7`,
		`pgreplicaproxy_throttled_logins_total 8`,
		`pgreplicaproxy_throttle_pairs 9`,
		`pgreplicaproxy_logins 3`,
		`pgreplicaproxy_certificate_not_after_timestamp_seconds{names="a b"} 2e+09`,
		`pgreplicaproxy_certificate_expires_soon{names="a b"} 1`,
		`pgreplicaproxy_certificate_renewed_timestamp_seconds{names="a b"} 1.999999999e+09`,
		`pgreplicaproxy_certificate_renewal_failing{names="a b"} 1`,
	)
}

// Whoever has no metrics calls them all the same.
func TestNil(_ *testing.T) {
	var m *Metrics
	m.Watch(Sources{})
	m.Handshake("client", "", 0)
	m.Refused("", "")
	m.Cancelled("")
	m.Probed("", "", true, 0)
	m.Changed("", "")
	m.Reloaded(true)
	m.LoggedIn("", "", 0)
	s := m.Session("", "", "", "")
	s.Opened()
	s.Relayed(1, 1)
	s.Closed("")
}
