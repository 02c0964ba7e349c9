package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/replicon/pgreplicaproxy/policy"
)

// explainUsage is how a request is described on the command line.
const explainUsage = "user=NAME database=NAME from=ADDRESS tls=true|false client_certificate=true|false sni=NAME replication=true|false"

// parseRequest reads a request from arguments such as user=app. What is left out is as an ordinary client has it: the database
// named like the user, an address of this machine, TLS, and no certificate.
func parseRequest(args []string) (policy.Request, error) {
	q := policy.Request{Address: netip.MustParseAddr("127.0.0.1"), TLS: true}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return q, fmt.Errorf("%q describes nothing: write %s", arg, explainUsage)
		}
		var err error
		switch key {
		case "user":
			q.User = value
		case "database":
			q.Database = value
		case "sni":
			q.ServerName = value
		case "from":
			q.Address, err = parseOrigin(value)
		case "tls":
			q.TLS, err = strconv.ParseBool(value)
		case "client_certificate":
			q.Certificate, err = strconv.ParseBool(value)
		case "replication":
			q.Replication, err = strconv.ParseBool(value)
		default:
			err = errors.New("unknown name: write " + explainUsage)
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", arg, err)
		}
	}
	if q.User == "" {
		return q, errors.New("which user? Write user=NAME")
	}
	if q.Database == "" {
		q.Database = q.User
	}
	return q, nil
}

// parseOrigin reads an address; "unix" is a unix socket.
func parseOrigin(s string) (netip.Addr, error) {
	if s == wordUnix {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(s)
}

// explain prints the access rule and the route that a request meets. The error says why it would be refused.
func explain(w io.Writer, cfg *config, q policy.Request) error {
	entry := cfg.Routes.Enter(q)
	var lines []string
	switch {
	case entry.Rule >= 0:
		lines = append(lines, fmt.Sprintf("access: block %d of the file: %v", entry.Rule+1, &cfg.Routes.Access[entry.Rule]))
	case entry.Allowed:
		lines = append(lines, "access: everybody, for the file has no access block")
	default:
		lines = append(lines, "access: no block takes it")
	}
	d := cfg.Routes.Decide(q, nil, func() float64 { return 0 })
	if d.Route >= 0 {
		lines = append(lines, fmt.Sprintf("route:  number %d, to %s of cluster %q as database %q",
			d.Route+1, theServer(d.Target), d.Cluster, d.Database))
	} else {
		lines = append(lines, "route:  none")
	}
	if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
		return err
	}
	switch {
	case !entry.Allowed:
		return errors.New("refused: " + entry.Reason)
	case d.Route < 0:
		return errors.New("refused: " + d.Reason)
	case cfg.monitors(d.Cluster, q.User):
		return fmt.Errorf("refused: %q is the monitor's role of cluster %q", q.User, d.Cluster)
	}
	return nil
}

func theServer(t policy.Target) string {
	switch t {
	case policy.TargetPrimary:
		return "the primary"
	case policy.TargetReplica:
		return "a replica"
	default:
		return "any server"
	}
}

// monitors reports whether user is the monitor's role of a cluster, which clients may not use.
func (cfg *config) monitors(cluster, user string) bool {
	for _, c := range cfg.Clusters {
		if c.Monitor.Cluster == cluster {
			return !c.AllowMonitorUser && c.Monitor.Credentials.User == user
		}
	}
	return false
}

// requestWords completes the names of what describes a request.
func requestWords() []string {
	var words []string
	for _, field := range strings.Fields(explainUsage) {
		name, _, _ := strings.Cut(field, "=")
		words = append(words, name+"=")
	}
	return slices.Clip(words)
}
