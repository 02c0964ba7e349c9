package discovery

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

// Name is a DNS name, each of whose addresses is a server.
type Name struct {
	// Target is how the servers are: Address is the name with the port that they all have, and Name what the names of the servers
	// begin with, before a dash and the address.
	Target backends.Target
	// Interval is the time between two questions.
	Interval time.Duration
	// Server is the address, with port, of the DNS server to ask; empty asks as the system does.
	Server string
}

// nameSource is a Name at work.
type nameSource struct {
	Name
	cluster string
	// addresses are those in use, missing the ones of them that the last answer lacked. A server is given up when two
	// answers in a row lack it: not every answer of every DNS server is whole.
	addresses, missing []netip.Addr
}

func (n *nameSource) interval() time.Duration { return n.Interval }

func (n *nameSource) subject() string { return n.Target.Name + " " + n.Target.Address }

// String names the source in the log.
func (n *nameSource) String() string { return "DNS name " + n.host() }

func (n *nameSource) host() string {
	host, _, _ := net.SplitHostPort(n.Target.Address)
	return host
}

func (n *nameSource) same(other source) bool {
	o, ok := other.(*nameSource)
	return ok && n.Interval == o.Interval && n.Server == o.Server && n.Target.Weight == o.Target.Weight &&
		n.Target.Zone == o.Target.Zone && n.Target.SameServer(o.Target)
}

// ask resolves the name. No address at all is an error.
func (n *nameSource) ask(ctx context.Context) (Found, error) {
	found, err := n.resolver().LookupNetIP(ctx, "ip", n.host())
	if err != nil {
		return Found{}, err
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	slices.SortFunc(found, netip.Addr.Compare)
	if found = slices.Compact(found); len(found) > maxServers {
		return Found{}, fmt.Errorf("%d addresses, of which at most %d are taken for servers", len(found), maxServers)
	}
	var missing []netip.Addr
	for _, a := range n.addresses {
		if !slices.Contains(found, a) && !slices.Contains(n.missing, a) {
			missing = append(missing, a)
		}
	}
	n.addresses, n.missing = append(found, missing...), missing
	slices.SortFunc(n.addresses, netip.Addr.Compare)
	return Found{Targets: n.targets()}, nil
}

func (n *nameSource) inherit(found Found) Found {
	for _, t := range found.Targets {
		if a, err := netip.ParseAddrPort(t.Address); err == nil {
			n.addresses = append(n.addresses, a.Addr())
		}
	}
	return Found{Targets: n.targets()}
}

func (n *nameSource) resolver() *net.Resolver {
	if n.Server == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, n.Server)
	}}
}

// targets are the servers at the addresses.
func (n *nameSource) targets() []backends.Target {
	_, port, _ := net.SplitHostPort(n.Target.Address)
	list := make([]backends.Target, len(n.addresses))
	for i, a := range n.addresses {
		t := n.Target
		t.Cluster, t.Name = n.cluster, fmt.Sprintf("%s-%s", n.Target.Name, strings.ReplaceAll(a.String(), ":", "-"))
		t.Address = net.JoinHostPort(a.String(), port)
		if t.ServerName == "" { // certificates are for the name
			t.ServerName = n.host()
		}
		list[i] = t
	}
	return list
}
