package discovery

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/dnstest"
)

// nameOf is one that s is asked for.
func nameOf(s *dnstest.Server) Name {
	return Name{
		Target:   backends.Target{Name: "pool", Network: "tcp", Address: "db.test:6543", TLS: backends.TLSVerifyFull, Weight: 3},
		Interval: 10 * time.Millisecond, Server: s.Address(),
	}
}

// ask asks once and returns the addresses.
func ask(t *testing.T, n *nameSource) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	found, err := n.ask(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return addresses(found)
}

func addresses(f Found) []string {
	var list []string
	for _, t := range f.Targets {
		list = append(list, t.Address)
	}
	return list
}

// Each address is a server: known by it, reached at it, and verified by the name.
func TestAddressesAreServers(t *testing.T) {
	s := dnstest.New(t, "10.0.0.2", "10.0.0.1", "2001:db8::1", "10.0.0.1")
	found, err := (&nameSource{Name: nameOf(s), cluster: "main"}).ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := func(name, address string) backends.Target {
		return backends.Target{
			Cluster: "main", Name: name, Network: "tcp", Address: address, TLS: backends.TLSVerifyFull, ServerName: "db.test", Weight: 3,
		}
	}
	want := []backends.Target{
		server("pool-10.0.0.1", "10.0.0.1:6543"), server("pool-10.0.0.2", "10.0.0.2:6543"),
		server("pool-2001-db8--1", "[2001:db8::1]:6543"),
	}
	if !slices.Equal(found.Targets, want) {
		t.Errorf("got %+v, want %+v", found.Targets, want)
	}
	named := nameOf(s)
	named.Target.ServerName = "certificate.test"
	if found, err := (&nameSource{Name: named}).ask(t.Context()); err != nil || found.Targets[0].ServerName != "certificate.test" {
		t.Errorf("got %+v, %v, want the name of the configuration", found, err)
	}
}

// One answer that lacks an address may be half of one; two mean it.
func TestAddressVanishes(t *testing.T) {
	s := dnstest.New(t, "10.0.0.1", "10.0.0.2")
	n := &nameSource{Name: nameOf(s)}
	for i, step := range []struct{ answer, want []string }{
		{[]string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1"}, []string{"10.0.0.1:6543"}},
		{[]string{"10.0.0.3"}, []string{"10.0.0.1:6543", "10.0.0.3:6543"}},
		{[]string{"10.0.0.3"}, []string{"10.0.0.3:6543"}},
	} {
		s.Set(0, step.answer...)
		if got := ask(t, n); !slices.Equal(got, step.want) {
			t.Errorf("step %d: got %v, want %v", i, got, step.want)
		}
	}
}

// No answer, for whatever reason, is an error, and so is one that would have us watch the world.
func TestNamesWithoutAnswer(t *testing.T) {
	s := dnstest.New(t, "10.0.0.1")
	n := &nameSource{Name: nameOf(s)}
	ask(t, n)
	var many []string
	for a := netip.MustParseAddr("10.0.0.0"); len(many) <= maxServers; a = a.Next() {
		many = append(many, a.String())
	}
	for name, change := range map[string]func(){
		"NXDOMAIN": func() { s.Set(dnstest.NameError) }, "SERVFAIL": func() { s.Set(dnstest.ServerFailure) }, "no address": func() { s.Set(0) },
		"silence": s.Silence,
	} {
		change()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if found, err := n.ask(ctx); err == nil {
			t.Errorf("%s: found %v", name, found)
		}
		cancel()
	}
	s.Set(0, many...)
	if _, err := n.ask(t.Context()); err == nil || !strings.Contains(err.Error(), "addresses") {
		t.Errorf("an answer of %d addresses: %v", len(many), err)
	}
	s.Set(0, "10.0.0.1")
	if got := ask(t, n); !slices.Equal(got, []string{"10.0.0.1:6543"}) {
		t.Errorf("in the end got %v", got)
	}
}
