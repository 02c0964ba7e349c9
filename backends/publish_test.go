package backends

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// desk is a publisher without servers: a test says what is observed.
type desk struct {
	*publisher
	t       *testing.T
	vacates chan []Target // who is to be left
	left    chan error    // what comes of it
}

func newDesk(t *testing.T, stateFile string) *desk {
	d := &desk{t: t, vacates: make(chan []Target, 10), left: make(chan error, 10)}
	m := NewMonitor(MonitorConfig{Cluster: "main", StateFile: stateFile, Vacate: func(_ context.Context, servers []Target) error {
		d.vacates <- servers
		return <-d.left
	}})
	d.publisher = newPublisher(m)
	return d
}

// sees publishes what is observed, and checks what comes of it.
func (d *desk) sees(want string, list ...saw) {
	d.t.Helper()
	config := MonitorConfig{now: time.Now}.settled()
	d.publish(d.t.Context(), config, observe(list))
	if got := told(verdict{states: d.m.Snapshot().States}); got != want {
		d.t.Errorf("got %s, want %s", got, want)
	}
}

// vacate lets the sessions end.
func (d *desk) vacate(err error) {
	d.t.Helper()
	if d.publisher.vacated == nil {
		d.t.Fatal("nobody is to be left")
	}
	d.left <- err
	d.publisher.left(<-d.publisher.vacated)
}

// The new primary waits for the sessions on the old one, which is not served by then.
func TestNewPrimaryWaitsForTheOldOnesSessions(t *testing.T) {
	d := newDesk(t, "")
	old, standby := primaryOn("db1", 1), standbyOf("db2", "db1", 1)
	d.sees("db1 primary, db2 replica", old, standby)
	for range 3 {
		d.sees("db1 unknown down, db2 unknown pending", gone("db1", Down), primaryOn("db2", 2))
	}
	if servers := <-d.vacates; len(servers) != 1 || servers[0].Name != "db1" {
		t.Errorf("to be left are %v", servers)
	}
	d.sees("db1 unknown down, db2 unknown down", gone("db1", Down), gone("db2", Down)) // it dies before it was served
	d.vacate(nil)
	d.sees("db1 unknown down, db2 primary", gone("db1", Down), primaryOn("db2", 2))
	d.sees("db1 unknown quarantined, db2 primary", old, primaryOn("db2", 2))
	if len(d.vacates) != 0 {
		t.Error("db1 was to be left twice")
	}
	// Vacating that fails is begun again.
	d.sees("db1 unknown pending, db2 unknown down", primaryOn("db1", 3), gone("db2", Down))
	d.vacate(errors.New("no"))
	d.sees("db1 unknown pending, db2 unknown down", primaryOn("db1", 3), gone("db2", Down))
	d.vacate(nil)
	d.sees("db1 primary, db2 unknown down", primaryOn("db1", 3), gone("db2", Down))
}

// Who was to be left and is served again has sessions again: what comes of the first vacating says nothing about them.
func TestVacatingCalledOff(t *testing.T) {
	d := newDesk(t, "")
	d.sees("db1 primary, db2 replica", primaryOn("db1", 1), standbyOf("db2", "db1", 1))
	both := []saw{primaryOn("db1", 1), primaryOn("db2", 2)}
	d.sees("db1 unknown quarantined, db2 unknown pending", both...)
	accept := func(i int) { d.memory = d.memory.accepted(observe(both)[i], observe(both)) }
	accept(0)
	d.sees("db1 primary, db2 unknown quarantined", both...)
	d.vacate(nil)
	accept(1)
	d.sees("db1 unknown quarantined, db2 unknown pending", both...)
	d.vacate(nil)
	d.sees("db1 unknown quarantined, db2 primary", both...)
}

// A server that has another address is another server, and its sessions are elsewhere.
func TestNewPrimaryUnderTheSameName(t *testing.T) {
	d := newDesk(t, "")
	d.sees("db1 primary", primaryOn("db1", 1))
	moved := primaryOn("db1", 2).observation()
	moved.target.Address = "10.0.0.9:5432"
	config := MonitorConfig{now: time.Now}.settled()
	d.publish(t.Context(), config, []observation{moved})
	if st := d.m.Snapshot().States[0]; st.Role != policy.Unknown || st.Status != Pending {
		t.Errorf("state is %+v", st)
	}
	if servers := <-d.vacates; len(servers) != 1 || servers[0].Address != "db1:5432" {
		t.Errorf("to be left are %v", servers)
	}
	d.vacate(nil)
	d.publish(t.Context(), config, []observation{moved})
	if st := d.m.Snapshot().States[0]; st.Role != policy.Primary {
		t.Errorf("state is %+v", st)
	}
}

// Accept and Forget work while a monitor runs, and say when they do not.
func TestOperator(t *testing.T) {
	noLeaks(t)
	db1, db2 := named(t, "db1", false), named(t, "db2", false)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target, db2.Target}, Interval: 20 * time.Millisecond})
	awaitServer(t, m, "db1", policy.Unknown, Conflict)
	awaitServer(t, m, "db2", policy.Unknown, Conflict)
	do(t, m.Accept("db2"))
	if st, _ := m.Snapshot().State("db2"); st.Role != policy.Primary {
		t.Errorf("right after Accept the state is %+v", st)
	}
	awaitServer(t, m, "db1", policy.Unknown, Quarantined)
	do(t, m.Accept("db1"))
	awaitServer(t, m, "db1", policy.Primary, Up)
	awaitServer(t, m, "db2", policy.Unknown, Quarantined)
	do(t, m.Forget())
	awaitServer(t, m, "db1", policy.Unknown, Conflict)
	db2.set(func() { db2.recovery = true })
	awaitServer(t, m, "db1", policy.Primary, Up)
	for backend, want := range map[string]string{
		"db2": `backend "db2" does not claim to be the primary: it is replica, up`,
		"db9": `cluster "main" has no backend "db9"`,
	} {
		if err := m.Accept(backend); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", backend, err, want)
		}
	}
}

// A system identifier that is named later sets the others apart, and holds against Accept until it is changed itself.
func TestSystemIdentifier(t *testing.T) {
	noLeaks(t)
	db1, db2 := named(t, "db1", false), named(t, "db2", false)
	db2.set(func() { db2.identity = "7000000000000000002" })
	config := MonitorConfig{Targets: []Target{db1.Target, db2.Target}, Interval: 20 * time.Millisecond}
	m, _ := monitor(t, config)
	awaitServer(t, m, "db1", policy.Unknown, Foreign)
	config.SystemIdentifier = "7000000000000000002"
	m.Update(config)
	awaitServer(t, m, "db2", policy.Primary, Up)
	awaitServer(t, m, "db1", policy.Unknown, Foreign)
	want := `backend "db1" has the system identifier 7000000000000000001, and system_identifier is set to 7000000000000000002: change that first`
	if err := m.Accept("db1"); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	config.SystemIdentifier = "7000000000000000001"
	m.Update(config)
	awaitServer(t, m, "db1", policy.Primary, Up)
	awaitServer(t, m, "db2", policy.Unknown, Foreign)
}

func TestOperatorAfterTheEnd(t *testing.T) {
	m := NewMonitor(MonitorConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.Run(ctx)
	if err := errors.Join(m.Accept("db1"), m.Forget()); !errors.Is(err, errOver) {
		t.Error(err)
	}
}

// In a conflict the manager's word decides at once.
func TestSetLeader(t *testing.T) {
	noLeaks(t)
	db1, db2 := named(t, "db1", false), named(t, "db2", false)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target, db2.Target}, Interval: 20 * time.Millisecond})
	awaitServer(t, m, "db1", policy.Unknown, Conflict)
	m.SetLeader("db2")
	if st := awaitServer(t, m, "db2", policy.Primary, Up); st.Reason != "the cluster's manager says so" {
		t.Errorf("state is %+v", st)
	}
}
