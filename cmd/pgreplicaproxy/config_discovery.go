package main

import (
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/discovery"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
)

// leastLookup is the least time between two questions to a source of servers, which is somebody else's server.
const leastLookup = 100 * time.Millisecond

// member stands among a cluster's servers for those that Patroni will name.
func member(raw *rawCluster) backends.Target {
	return backends.Target{Cluster: raw.Name, Name: "patroni", Network: "tcp", Weight: defaultWeight}
}

// discovery divides the servers of the file, complete with their TLS, into those whose addresses are known and the patterns for
// those that are looked up.
func (c *converter) discovery(raw *rawCluster, servers []backends.Target, cfg *proxy.ClusterConfig) {
	var found discovery.Config
	for _, t := range servers {
		i := slices.IndexFunc(raw.Backends, func(b *rawBackend) bool { return b.Name == t.Name })
		if i < 0 { // that of member
			continue
		}
		if name, ok := c.lookup(raw.Backends[i], t); ok {
			found.Names = append(found.Names, name)
			continue
		}
		cfg.Monitor.Targets = append(cfg.Monitor.Targets, t)
	}
	found.Patroni = c.patroni(raw, servers)
	if len(found.Names) > 0 || found.Patroni != nil {
		found.Cluster = raw.Name
		cfg.Discovery = found
	}
}

// lookup is false for a backend that is one server at one address.
func (c *converter) lookup(b *rawBackend, t backends.Target) (discovery.Name, bool) {
	if b.Resolve == nil {
		if b.DNSServer != nil {
			c.fail(b.DNSServer.NameRange, "Not used", `dns_server is asked for the addresses of a name that is looked up. Add resolve = "20s", or remove it.`)
		}
		return discovery.Name{}, false
	}
	host, _, _ := net.SplitHostPort(t.Address)
	if t.Network == "unix" || net.ParseIP(host) != nil {
		c.fail(b.Resolve.NameRange, "Nothing to look up", "%s is no DNS name. Remove resolve, or write a name.", t.Address)
		return discovery.Name{}, false
	}
	return discovery.Name{Target: t, Interval: c.duration(b.Resolve, 0, leastLookup), Server: c.dnsServer(b)}, true
}

// dnsServer returns the address of the server to ask, empty for the system's.
func (c *converter) dnsServer(b *rawBackend) string {
	text := c.text(b.DNSServer, "")
	if text == "" {
		return ""
	}
	address := text
	if net.ParseIP(text) != nil {
		address = net.JoinHostPort(text, "53")
	}
	host, port, err := splitAddress(address, 1)
	if err != nil || net.ParseIP(host) == nil {
		c.fail(b.DNSServer.Expr.Range(), "Not a DNS server's address", `%q is no IP address, such as "10.0.0.53", with or without a port.`, text)
		return ""
	}
	return net.JoinHostPort(host, port)
}

// patroni reads where Patroni is asked, nil for nowhere. Its members are the servers unless the file names some.
func (c *converter) patroni(raw *rawCluster, servers []backends.Target) *discovery.Patroni {
	if raw.Patroni == nil {
		return nil
	}
	p := &discovery.Patroni{Interval: c.duration(raw.Patroni.Interval, defaultPatroniInterval, leastLookup)}
	if p.LeaderOnly = len(raw.Backends) > 0; !p.LeaderOnly {
		p.Target = servers[slices.IndexFunc(servers, func(t backends.Target) bool { return t.Name == member(raw).Name })]
	}
	secure, told := false, len(c.diags)
	for _, w := range c.words(raw.Patroni.URLs) {
		u, err := url.Parse(w.text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			c.fail(w.at, "Not a URL of Patroni", `%q is not of the form "http://10.0.0.11:8008".`, w.text)
			continue
		}
		secure = secure || u.Scheme == "https"
		p.URLs = append(p.URLs, w.text)
	}
	if raw.Patroni.URLs == nil {
		c.fail(raw.Patroni.Def, "Missing argument", `The block needs this line: urls = ["http://10.0.0.11:8008", "http://10.0.0.12:8008"]`)
	} else if len(p.URLs) == 0 && len(c.diags) == told {
		c.fail(raw.Patroni.URLs.Expr.Range(), "No URL", `Name the REST interface of at least one member: urls = ["http://10.0.0.11:8008"].`)
	}
	if a := raw.Patroni.RootFile; a != nil {
		if !secure && len(p.URLs) > 0 {
			c.fail(a.NameRange, "Roots without TLS", `root_file is for URLs that begin with "https:". Remove it, or write such a URL.`)
		}
		if path := c.path(c.text(a, "")); path != "" {
			pool, err := rootPool(path)
			if err != nil {
				c.fail(a.Expr.Range(), "Roots cannot be read", "%v. root_file holds the certificate of the CA of Patroni's REST interface in PEM.", err)
			}
			p.RootCAs = pool
		}
	}
	return p
}
