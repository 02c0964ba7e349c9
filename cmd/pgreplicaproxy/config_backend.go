package main

import (
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/backends"
)

// targets returns the cluster's servers, without TLS as yet, patterns for servers that are looked up among them.
func (c *converter) targets(raw *rawCluster) []backends.Target {
	if len(raw.Backends) == 0 && raw.Patroni != nil {
		return []backends.Target{member(raw)}
	}
	if len(raw.Backends) == 0 {
		c.fail(raw.Def, "No backend", `Cluster %q has no server. Write backend "db1" { address = "10.0.0.11:5432" } in it.`, raw.Name)
	}
	var list []backends.Target
	names, addresses := map[string]int{}, map[string]int{}
	for _, b := range raw.Backends {
		c.label("backend", b.Name, b.NameRange, names)
		t := backends.Target{
			Cluster: raw.Name, Name: b.Name, Weight: c.weight(b.Weight), Zone: c.name(b.Zone, ""),
			MaxSessions:       c.integer(b.MaxSessions, 0, 0, math.MaxInt32),
			SendProxyProtocol: c.boolean(b.SendProxyProtocol, false),
		}
		address := c.required(b.Address, b.Def, `address = "10.0.0.11:5432"`)
		if address == "" {
			continue
		}
		var err error
		if t.Network, t.Address, err = parseBackendAddress(address); err != nil {
			c.fail(b.Address.Expr.Range(), "Not a server's address",
				`%v. Write "host:port", or the absolute path of the directory of a unix socket, with ":port" behind it if it is not 5432.`, err)
			continue
		}
		if line, taken := addresses[t.Address]; taken {
			c.fail(b.Address.Expr.Range(), "Server named twice",
				"The backend on line %d is %s already. Each server stands in its cluster once; weight gives it a larger share.", line, t.Address)
		}
		addresses[t.Address] = b.Address.Range.Start.Line
		list = append(list, t)
	}
	return list
}

func (c *converter) weight(a *hcl.Attribute) int {
	n, ok := value[int](c, a, anInt)
	if !ok {
		return defaultWeight
	}
	if n < 0 || n > maxWeight {
		c.fail(a.Expr.Range(), "Weight out of range",
			"weight is a share of the sessions between 0 (no new ones) and %d.", maxWeight)
		return defaultWeight
	}
	return n
}

// maxWeight keeps sums of weights far from overflow; nobody needs finer shares.
const maxWeight = 1_000_000

// parseBackendAddress reads host[:port], where a host that begins with a slash is the directory of a unix socket, as in
// libpq ("Connection Strings", host), and returns what net.Dial takes.
func parseBackendAddress(s string) (network, address string, err error) {
	if filepath.IsAbs(s) {
		return parseSocketDirectory(s)
	}
	if ip := strings.Trim(s, "[]"); net.ParseIP(ip) != nil || !strings.Contains(s, ":") {
		s = net.JoinHostPort(ip, defaultBackendPort)
	}
	host, port, err := splitAddress(s, 1)
	if err == nil && host == "" {
		err = fmt.Errorf("%q names no host", s)
	}
	if err != nil {
		return "", "", err
	}
	return "tcp", net.JoinHostPort(host, port), nil
}

// parseSocketDirectory adds the name that PostgreSQL gives the socket in its directory.
func parseSocketDirectory(s string) (network, address string, err error) {
	dir, port := s, defaultBackendPort
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		if _, port, err = splitAddress(s[i:], 1); err != nil {
			return "", "", err
		}
		dir = s[:i]
	}
	const prefix = ".s.PGSQL."
	if strings.HasPrefix(filepath.Base(dir), prefix) {
		return "", "", fmt.Errorf("%q is the socket itself, not its directory", s)
	}
	return "unix", filepath.Join(dir, prefix+port), nil
}

// backendTLS sets how the servers that are reached over TCP are; a unix socket needs no TLS.
func (c *converter) backendTLS(cluster *rawCluster, targets []backends.Target) {
	raw := cluster.BackendTLS
	if raw == nil {
		return
	}
	mode := choice(c, raw.Mode, defaultTLSMode, backends.ParseTLSMode)
	rootFile, _ := value[string](c, raw.RootFile, aString)
	serverName, _ := value[string](c, raw.ServerName, aString)
	verifies := mode == backends.TLSVerifyCA || mode == backends.TLSVerifyFull
	switch {
	case rootFile != "" && !verifies:
		c.fail(raw.RootFile.Range, "Roots without verification",
			`mode = %q looks at no certificate. Write mode = "verify-full" or "verify-ca", or remove root_file.`, mode)
		rootFile = ""
	case rootFile == "" && mode == backends.TLSVerifyCA:
		c.fail(rangeOf(raw.Mode, raw.Def), "verify-ca needs its own roots",
			`With the system's roots, "verify-ca" would take a certificate that anybody can get for any name. Add root_file, or write mode = "verify-full".`)
	}
	if serverName != "" && mode == backends.TLSOff {
		c.fail(raw.ServerName.Range, "Server name without TLS", `mode = "off" uses no TLS. Remove server_name, or choose another mode.`)
	}
	if mode != backends.TLSOff && len(targets) > 0 && !anyTCP(targets) {
		c.fail(raw.Def, "TLS on unix sockets only", "PostgreSQL has no TLS on unix sockets, and every backend of the cluster is one. Remove the block.")
	}
	c.protect(targets, backends.Target{TLS: mode, ServerName: serverName}, raw.RootFile, c.path(rootFile))
}

// protect copies the TLS settings of like to every server reached over TCP.
func (c *converter) protect(targets []backends.Target, like backends.Target, a *hcl.Attribute, rootFile string) {
	if rootFile != "" {
		pool, err := rootPool(rootFile)
		if err != nil {
			c.fail(a.Expr.Range(), "Roots cannot be read", "%v. root_file holds the certificates of the servers' CAs in PEM.", err)
		}
		like.RootCAs = pool
	}
	for i := range targets {
		if targets[i].Network == "tcp" {
			targets[i].TLS, targets[i].RootCAs, targets[i].ServerName = like.TLS, like.RootCAs, like.ServerName
		}
	}
}
