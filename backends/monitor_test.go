package backends

import (
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/replicon/pgreplicaproxy/policy"
)

func TestSnapshotBeforeTheFirstRound(t *testing.T) {
	m := NewMonitor(MonitorConfig{Targets: []Target{{Name: "db1", Weight: 3}}})
	m.Suspect("db1")
	m.Suspect("db1")
	m.Suspect("nobody")
	s := m.Snapshot()
	if st, ok := s.State("db1"); !ok || st.Role != policy.Unknown || st.Status != Unknown || !st.Since.IsZero() {
		t.Errorf("state is %+v, %t", st, ok)
	}
	if _, ok := s.State("db2"); ok {
		t.Error("there is a db2")
	}
	if len(s.Backends) != 1 || s.Backends[0] != (policy.Backend{Name: "db1", Weight: 3, Detail: "not asked yet"}) {
		t.Errorf("backends are %+v", s.Backends)
	}
	select {
	case <-m.FirstRound():
		t.Error("the first round is over")
	case <-s.Changed():
		t.Error("the snapshot has changed")
	default:
	}
}

func TestMonitorWithoutServers(t *testing.T) {
	noLeaks(t)
	m, _ := monitor(t, MonitorConfig{})
	<-m.FirstRound()
	if s := m.Snapshot(); len(s.States) != 0 || len(s.Backends) != 0 {
		t.Errorf("snapshot is %+v", s)
	}
}

// What a server's first answer makes of it.
func TestMonitorStatuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		server func(*scripted)
		role   policy.Role
		status Status
		detail string
	}{
		{"primary", func(*scripted) {}, policy.Primary, Up, ""},
		{"replica", func(s *scripted) { s.recovery = true }, policy.Replica, Up, ""},
		{"starting", refusing("57P03", "the database system is starting up"), policy.Unknown, Starting, "starting up"},
		{"full", refusing("53300", "sorry"), policy.Unknown, Saturated, "has no connection left for the monitor"},
		{"wrong password", refusing("28P01", "no"), policy.Unknown, Misconfigured, "refuses the monitor's login (28P01)"},
		{"no database", refusing("3D000", "no"), policy.Unknown, Misconfigured, "lacks the monitor's database (3D000)"},
		{"no TLS", func(s *scripted) { s.TLS = TLSRequire; s.Address = "" }, policy.Unknown, Misconfigured, "does not offer TLS"},
		{"broken", func(s *scripted) { s.refusal = fatal("57P01", "bye") }, policy.Unknown, Down, "closes connections"},
		{"silent", func(s *scripted) { s.mute = true }, policy.Unknown, Silent, "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t)
			server := newScripted(t)
			server.set(func() { c.server(server) })
			if server.Address == "" {
				server.Address = serve(t, func(conn net.Conn) {
					_ = readN(conn, 8)
					_, _ = conn.Write([]byte{'N'})
				})
			}
			m, log := monitor(t, MonitorConfig{Targets: []Target{server.Target}, Timeout: 200 * time.Millisecond})
			st := awaitServer(t, m, "db1", c.role, c.status)
			select {
			case <-m.FirstRound():
			case <-time.After(patience):
				t.Error("the first round does not end")
			}
			if st.Detail != c.detail || st.Since.IsZero() || st.Target != server.Target {
				t.Errorf("state is %+v", st)
			}
			if b := m.Snapshot().Backends[0]; b != (policy.Backend{Name: "db1", Role: c.role, Weight: 1, Detail: c.detail}) {
				t.Errorf("backend is %+v", b)
			}
			checkChange(t, log.await(t, "db1", 1), c.role, c.status)
		})
	}
}

func refusing(code, message string) func(*scripted) {
	return func(s *scripted) { s.refusal = fatal(code, message) }
}

// checkChange checks that one line was logged for the one change.
func checkChange(t *testing.T, entries []map[string]any, role policy.Role, status Status) {
	t.Helper()
	if len(entries) != 1 {
		t.Fatalf("log is %v, want one line", entries)
	}
	entry := entries[0]
	for key, want := range map[string]any{
		"cluster": "main", "role": role.String(), "was": "unknown", "status": status.String(),
		"level": map[bool]string{true: "INFO", false: "WARN"}[status == Up],
	} {
		if entry[key] != want {
			t.Errorf("log has %s %v, want %v", key, entry[key], want)
		}
	}
	if _, explained := entry["error"]; explained != (status != Up) {
		t.Errorf("log is %v", entry)
	}
}

func TestMonitorRefused(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	m, _ := monitor(t, MonitorConfig{Targets: []Target{target(ln.Addr().String(), TLSOff)}})
	if st := awaitServer(t, m, "db1", policy.Unknown, Down); st.Detail != "connection refused" {
		t.Errorf("state is %+v", st)
	}
}

// A session that ends is noticed without a question, and a server that ends every session is not asked in a tight loop.
func TestMonitorNoticesTheEndOfItsSession(t *testing.T) {
	noLeaks(t)
	server := newScripted(t)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{server.Target}, Interval: time.Hour, FreshLogin: time.Hour})
	awaitServer(t, m, "db1", policy.Primary, Up)
	server.set(func() { server.refusal = fatal("57P03", "the database system is shutting down") })
	server.endSessions()
	awaitServer(t, m, "db1", policy.Unknown, Starting)
	server.set(func() { server.refusal, server.recovery = nil, true })
	awaitServer(t, m, "db1", policy.Replica, Up)
}

// A suspicion brings a fresh login long before it is time.
func TestSuspect(t *testing.T) {
	noLeaks(t)
	server := newScripted(t)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{server.Target}, Interval: time.Hour, FreshLogin: time.Hour})
	awaitServer(t, m, "db1", policy.Primary, Up)
	before := server.countLogins()
	server.set(func() { server.recovery = true })
	for range 10_000 {
		m.Suspect("db1")
	}
	awaitServer(t, m, "db1", policy.Replica, Up)
	server.set(func() { server.recovery = false })
	m.Suspect("db1")
	awaitServer(t, m, "db1", policy.Primary, Up)
	// Each login takes a breath, so 10,000 suspicions cannot have caused as many.
	if got := server.countLogins() - before; got < 2 || got > 1000 {
		t.Errorf("%d logins", got)
	}
}

// The server goes on serving its sessions and lets nobody in: not for new sessions, but not down either, until that lasts too long.
func TestMonitorFindsADeadLoginPath(t *testing.T) {
	noLeaks(t)
	server := newScripted(t)
	m, _ := monitor(t, MonitorConfig{
		Targets: []Target{server.Target}, Interval: 20 * time.Millisecond, FreshLogin: time.Second,
		Timeout: 100 * time.Millisecond,
	})
	awaitServer(t, m, "db1", policy.Primary, Up)
	server.set(func() { server.mute = true })
	if st := awaitServer(t, m, "db1", policy.Unknown, NoLogin); st.Claim != policy.Primary {
		t.Errorf("state is %+v", st)
	}
	if st := awaitServer(t, m, "db1", policy.Unknown, Silent); st.Claim != policy.Unknown {
		t.Errorf("state is %+v", st)
	}
	server.set(func() { server.mute = false })
	awaitServer(t, m, "db1", policy.Primary, Up)
}

// A full server keeps its role, and one with another password for the monitor too: the old session still tells it.
func TestMonitorKeepsTheRole(t *testing.T) {
	for status, refusal := range map[Status]*pgproto3.ErrorResponse{
		Saturated: fatal("53300", "sorry"), Misconfigured: fatal("28P01", "no"), Failing: fatal("58030", "I/O error"),
	} {
		t.Run(status.String(), func(t *testing.T) {
			noLeaks(t)
			server := newScripted(t)
			m, _ := monitor(t, MonitorConfig{
				Targets: []Target{server.Target}, Interval: 20 * time.Millisecond, FreshLogin: 50 * time.Millisecond,
			})
			awaitServer(t, m, "db1", policy.Primary, Up)
			server.set(func() { server.refusal = refusal })
			awaitServer(t, m, "db1", policy.Primary, status)
			server.set(func() { server.recovery = true })
			awaitServer(t, m, "db1", policy.Replica, status)
			server.set(func() { server.refusal = nil })
			awaitServer(t, m, "db1", policy.Replica, Up)
		})
	}
}

// Nobody is served before everybody was asked: the first to answer might be a stranger, or one of two primaries.
func TestMonitorWaitsForTheFirstRound(t *testing.T) {
	noLeaks(t)
	quick, mute := newScripted(t), newScripted(t)
	mute.Name = "db2"
	mute.set(func() { mute.mute = true })
	m, _ := monitor(t, MonitorConfig{Targets: []Target{quick.Target, mute.Target}, Timeout: time.Second})
	first := await(t, m, "somebody was asked", func(s *Snapshot) bool { return s.States[0].Status != Unknown })
	if mute.countLogins() == 0 || first.States[0].Role != policy.Primary {
		t.Errorf("states are %+v", first.States)
	}
	awaitServer(t, m, "db2", policy.Unknown, Silent)
}

// The sessions are ended with Terminate: the old one when a fresh one replaces it, and the last one with Run.
func TestMonitorTakesLeave(t *testing.T) {
	noLeaks(t)
	server := newScripted(t)
	t.Run("monitored", func(t *testing.T) {
		m, _ := monitor(t, MonitorConfig{Targets: []Target{server.Target}, Interval: time.Hour, FreshLogin: time.Hour})
		awaitServer(t, m, "db1", policy.Primary, Up)
		server.set(func() { server.recovery = true })
		m.Suspect("db1")
		awaitServer(t, m, "db1", policy.Replica, Up)
	})
	awaitFarewells(t, server, 2)
	if logins := server.countLogins(); logins != 2 {
		t.Errorf("%d logins, want 2", logins)
	}
}

// Each change is told once, in order, when its snapshot is there.
func TestMonitorTellsOfChanges(t *testing.T) {
	noLeaks(t)
	server := newScripted(t)
	server.Zone = "a"
	changes := make(chan Change, 100)
	var m *Monitor
	started := make(chan struct{})
	tell := func(c Change) {
		<-started
		if st, _ := m.Snapshot().State("db1"); st != c.Is || st.Since != c.Time {
			t.Errorf("told of %+v, published is %+v", c, st)
		}
		changes <- c
	}
	m, _ = monitor(t, MonitorConfig{Targets: []Target{server.Target}, Interval: time.Hour, FreshLogin: time.Hour, OnChange: tell})
	close(started)
	awaitServer(t, m, "db1", policy.Primary, Up)
	if b := m.Snapshot().Backends[0]; b.Zone != "a" {
		t.Errorf("backend is %+v", b)
	}
	server.set(func() { server.refusal = fatal("57P03", "the database system is shutting down") })
	server.endSessions()
	awaitServer(t, m, "db1", policy.Unknown, Starting)
	one, two := <-changes, <-changes
	if one.Cluster != "main" || one.Was.Status != Unknown || one.Is.Role != policy.Primary || one.Err != nil {
		t.Errorf("first change is %+v", one)
	}
	if two.Was != one.Is || two.Is.Status != Starting || two.Err == nil {
		t.Errorf("second change is %+v", two)
	}
}
