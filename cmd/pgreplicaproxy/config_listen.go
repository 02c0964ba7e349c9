package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What a listen block may say of TLS.
var listenTLS = oneOf("a TLS mode of a listener", map[string]bool{"required": false, "optional": true})

func (c *converter) listeners(blocks []*rawListener) []listenerConfig {
	if len(blocks) == 0 {
		blocks = []*rawListener{{}}
	}
	var list []listenerConfig
	var from []*rawListener
	for _, raw := range blocks {
		l, ok := c.listener(raw)
		if !ok {
			continue
		}
		for i, other := range list {
			if other.overlaps(l) {
				c.fail(rangeOf(raw.Address, raw.Def), "Address taken twice",
					"%q is already taken by the listen block on line %d. Remove one of them, or give it another port.",
					l.Address, from[i].Def.Start.Line)
				break
			}
		}
		list, from = append(list, l), append(from, raw)
	}
	return list
}

// listener is false when the address was wrong, and reported.
func (c *converter) listener(raw *rawListener) (listenerConfig, bool) {
	address := defaultListenAddress
	if raw.Address != nil {
		if address = c.text(raw.Address, ""); address == "" {
			return listenerConfig{}, false
		}
	}
	l, err := parseListenAddress(address)
	if err != nil {
		c.fail(raw.Address.Expr.Range(), "Not an address to listen on",
			`%v. Write "host:port", ":port" for every interface, "[::1]:port", or the absolute path of a socket file.`, err)
		return listenerConfig{}, false
	}
	l.TLSOptional = choice(c, raw.TLS, false, listenTLS)
	if l.TLSOptional && !l.local() {
		c.fail(raw.TLS.Expr.Range(), "Clear text on a network address",
			`tls = "optional" is for loopback addresses and unix sockets, where nobody can listen in; %q is neither. `+
				`Write tls = "required", or listen on "127.0.0.1:port".`, l.Address)
	}
	l.ProxyProtocolFrom = c.proxies(raw.ProxyProtocolFrom, l)
	if p := l.ProxyProtocolFrom; l.TLSOptional && (p.Unix || len(p.Networks) > 0) {
		c.fail(raw.TLS.Expr.Range(), "Clear text from behind a proxy",
			`tls = "optional" is for clients of this machine, and those whose address a PROXY header tells may be anywhere. `+
				`Write tls = "required", or remove proxy_protocol_from.`)
	}
	return l, true
}

// parseListenAddress brings an address into one form: IP addresses as net/netip writes them, the host empty for every
// interface.
func parseListenAddress(s string) (listenerConfig, error) {
	if filepath.IsAbs(s) {
		if info, err := os.Stat(s); strings.HasSuffix(s, "/") || err == nil && info.IsDir() {
			return listenerConfig{}, fmt.Errorf("%q is a directory, and the socket needs a file name, such as .s.PGSQL.7432", s)
		}
		return listenerConfig{Network: "unix", Address: filepath.Clean(s)}, nil
	}
	host, port, err := splitAddress(s, 0)
	if err != nil {
		return listenerConfig{}, err
	}
	if host == netip.IPv6Unspecified().String() {
		host = "" // what net.Listen takes for both families anyhow
	}
	return listenerConfig{Network: "tcp", Address: net.JoinHostPort(host, port)}, nil
}

// splitAddress is net.SplitHostPort with a port that is a number, at least least, and a host in one spelling.
func splitAddress(s string, least uint64) (host, port string, err error) {
	host, port, err = net.SplitHostPort(s)
	if addr := new(net.AddrError); errors.As(err, &addr) {
		return "", "", fmt.Errorf("%q has a mistake: %s", s, addr.Err)
	} else if err != nil {
		return "", "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < least || n > 0 && port[0] == '0' {
		return "", "", fmt.Errorf("%q is not a port number", port)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String(), port, nil
	}
	if strings.ContainsAny(host, " /:") {
		return "", "", fmt.Errorf("%q is not a host name", host)
	}
	return strings.ToLower(host), port, nil
}

// local reports whether only this machine reaches the listener.
func (l listenerConfig) local() bool {
	if l.Network == "unix" {
		return true
	}
	host, _, _ := net.SplitHostPort(l.Address)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// overlaps reports whether the system would refuse to listen on both.
func (l listenerConfig) overlaps(m listenerConfig) bool {
	if l.Network != m.Network || l.Network == "unix" {
		return l.Network == m.Network && l.Address == m.Address
	}
	host, port, _ := net.SplitHostPort(l.Address)
	otherHost, otherPort, _ := net.SplitHostPort(m.Address)
	return port == otherPort && port != "0" && (host == otherHost || everywhere(host, otherHost) || everywhere(otherHost, host))
}

// everywhere reports whether listening on host takes the address of other too.
func everywhere(host, other string) bool {
	if host == "" {
		return true
	}
	ip, err := netip.ParseAddr(other)
	return host == netip.IPv4Unspecified().String() && err == nil && ip.Is4()
}
