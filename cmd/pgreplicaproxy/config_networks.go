package main

import (
	"fmt"
	"net/netip"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// wordUnix stands in a list of networks for all peers over unix sockets.
const wordUnix = "unix"

// proxies reads the peers of a listener that send PROXY headers.
func (c *converter) proxies(a *hcl.Attribute, l listenerConfig) tlsfront.Peers {
	var peers tlsfront.Peers
	for _, w := range c.words(a) {
		switch {
		case (w.text == wordUnix) != (l.Network == wordUnix):
			c.fail(w.at, "Never matches", `No client of %q comes from %q. A unix socket takes proxy_protocol_from = ["unix"], `+
				`everything else networks such as "10.0.0.0/8".`, l.Address, w.text)
		case w.text == wordUnix:
			peers.Unix = true
		default:
			network, err := parseNetwork(w.text)
			if err != nil {
				c.fail(w.at, "Not a network", `%s.`, sentence(err.Error()))
				continue
			}
			if network.Bits() == 0 {
				c.warn(w.at, "Every client is believed",
					"Whoever connects may claim any address, because %s holds them all. Name the addresses of your load balancers.", network)
			}
			peers.Networks = append(peers.Networks, network)
		}
	}
	return peers
}

// parseNetwork reads a network such as 10.0.0.0/8, or one address.
func parseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	network, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return network, fmt.Errorf(`%q is none: write "10.0.0.0/8", "2001:db8::/32" or one address`, s)
	case network.Addr().Is4In6():
		return network, fmt.Errorf("%q is an IPv4 network in IPv6: write it as 10.0.0.0/8 is written", s)
	case network != network.Masked():
		return network, fmt.Errorf("%q has bits behind its %d: write %q", s, network.Bits(), network.Masked())
	}
	return network, nil
}
