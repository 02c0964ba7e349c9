package backends

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// named is newScripted with another name and role.
func named(t *testing.T, name string, recovery bool) *scripted {
	t.Helper()
	s := newScripted(t)
	s.Name, s.recovery = name, recovery
	return s
}

// awaitTargets waits until the snapshot has just these servers.
func awaitTargets(t *testing.T, m *Monitor, names ...string) *Snapshot {
	t.Helper()
	return await(t, m, "the servers are as wanted", func(s *Snapshot) bool {
		if len(s.States) != len(names) {
			return false
		}
		for i, name := range names {
			if s.States[i].Target.Name != name || s.Backends[i].Name != name {
				return false
			}
		}
		return true
	})
}

// A server that stays keeps its session; one that comes is asked; one that goes is left with a word and forgotten.
func TestUpdateAddsAndRemovesServers(t *testing.T) {
	noLeaks(t)
	db1, db2, db3 := named(t, "db1", false), named(t, "db2", true), named(t, "db3", true)
	m, log := monitor(t, MonitorConfig{
		Targets: []Target{db1.Target, db2.Target}, Interval: 20 * time.Millisecond, FreshLogin: time.Hour,
	})
	before := awaitServer(t, m, "db1", policy.Primary, Up)
	awaitServer(t, m, "db2", policy.Replica, Up)

	m.SetTargets([]Target{db3.Target, db1.Target})
	awaitTargets(t, m, "db3", "db1")
	awaitServer(t, m, "db3", policy.Replica, Up)
	if st, _ := m.Snapshot().State("db1"); st != before {
		t.Errorf("db1 is %+v, was %+v", st, before)
	}
	if logins := db1.countLogins(); logins != 1 {
		t.Errorf("%d logins to the server that stayed, want 1", logins)
	}
	awaitFarewells(t, db2, 1)
	if logged := log.await(t, "db3", 2); logged[0]["msg"] != "server added" {
		t.Errorf("of db3 the log says %v", logged)
	}
	if logged := log.await(t, "db2", 2); logged[1]["msg"] != "server removed" {
		t.Errorf("of db2 the log says %v", logged)
	}
	m.Suspect("db2")
}

// A second primary that comes later on the same timeline is a copy: the first one goes on.
func TestUpdateJudgesNewServers(t *testing.T) {
	noLeaks(t)
	db1, db2 := named(t, "db1", false), named(t, "db2", false)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target}, Interval: 20 * time.Millisecond})
	awaitServer(t, m, "db1", policy.Primary, Up)
	m.SetTargets([]Target{db1.Target, db2.Target})
	awaitServer(t, m, "db2", policy.Unknown, Quarantined)
	m.SetTargets([]Target{db1.Target})
	awaitServer(t, m, "db1", policy.Primary, Up)
}

// Other credentials and times are used at once, and the role is not lost over it.
func TestUpdateKeepsTheRole(t *testing.T) {
	noLeaks(t)
	db1 := named(t, "db1", false)
	config := MonitorConfig{Targets: []Target{db1.Target}, Interval: time.Hour, FreshLogin: time.Hour}
	m, _ := monitor(t, config)
	before := awaitServer(t, m, "db1", policy.Primary, Up)
	db1.set(func() { db1.mute = true })
	config.Timeout = time.Minute
	for _, user := range []string{"second", "third"} {
		config.Cluster, config.Credentials = "main", Credentials{User: user}
		m.Update(config)
	}
	for db1.countLogins() < 2 {
		time.Sleep(time.Millisecond)
	}
	if st, _ := m.Snapshot().State("db1"); st != before {
		t.Errorf("db1 is %+v, was %+v", st, before)
	}
}

// A weight is none of the monitor's business.
func TestUpdateOfAWeight(t *testing.T) {
	noLeaks(t)
	db1 := named(t, "db1", false)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target}, FreshLogin: time.Hour})
	awaitServer(t, m, "db1", policy.Primary, Up)
	db1.Weight = 7
	m.SetTargets([]Target{db1.Target})
	await(t, m, "the weight is 7", func(s *Snapshot) bool { return s.Backends[0].Weight == 7 && s.States[0].Target.Weight == 7 })
	if logins := db1.countLogins(); logins != 1 {
		t.Errorf("%d logins, want 1", logins)
	}
}

// An address that changed is another server, of which nothing is known.
func TestUpdateOfAnAddress(t *testing.T) {
	noLeaks(t)
	db1, other := named(t, "db1", false), named(t, "db1", true)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target}})
	awaitServer(t, m, "db1", policy.Primary, Up)
	other.set(func() { other.mute = true })
	m.SetTargets([]Target{other.Target})
	awaitServer(t, m, "db1", policy.Unknown, Unknown)
	awaitFarewells(t, db1, 1)
}

// What is updated before Run is what Run begins with.
func TestUpdateBeforeRun(t *testing.T) {
	noLeaks(t)
	db1, db2 := named(t, "db1", false), named(t, "db2", false)
	m := NewMonitor(MonitorConfig{Cluster: "main", Targets: []Target{db1.Target}, Credentials: testCredentials})
	m.SetTargets([]Target{db2.Target})
	run(t, m)
	awaitTargets(t, m, "db2")
	awaitServer(t, m, "db2", policy.Primary, Up)
	if db1.countLogins() != 0 {
		t.Error("a server was asked that is not in the list")
	}
}

func TestSameServer(t *testing.T) {
	base := Target{Cluster: "main", Name: "db1", Network: "tcp", Address: "db1:5432", TLS: TLSVerifyCA, RootCAs: x509.NewCertPool(), Weight: 1}
	same := base
	same.Weight, same.RootCAs = 2, x509.NewCertPool()
	if !base.SameServer(same) {
		t.Error("a weight and a copy of the roots make another server")
	}
	for name, change := range map[string]func(*Target){
		"name": func(t *Target) { t.Name = "db2" }, "cluster": func(t *Target) { t.Cluster = "other" },
		"address": func(t *Target) { t.Address = "db1:5433" }, "network": func(t *Target) { t.Network = "unix" },
		"TLS": func(t *Target) { t.TLS = TLSOff }, "server name": func(t *Target) { t.ServerName = "db" },
		"roots": func(t *Target) { t.RootCAs = nil }, "PROXY header": func(t *Target) { t.SendProxyProtocol = true },
	} {
		other := base
		change(&other)
		if base.SameServer(other) {
			t.Errorf("another %s is the same server", name)
		}
	}
}

// awaitFarewells waits until so many sessions were ended with Terminate.
func awaitFarewells(t *testing.T, server *scripted, want int) {
	t.Helper()
	for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var got int
		server.set(func() { got = server.farewells })
		if got == want {
			return
		}
		if time.Now().After(over) {
			t.Fatalf("%d farewells, want %d", got, want)
		}
	}
}
