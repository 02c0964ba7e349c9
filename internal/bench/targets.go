//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// target is what a client connects to: the server, or a proxy in front of it.
type target struct {
	name  string
	about string
	quick bool

	// plain says that clients connect without TLS.
	plain bool
	// launch makes the command that serves on a port of loopback, with its files in a directory of its own. It is nil
	// for a direct connection.
	launch func(r *rig, dir string, port int) (*exec.Cmd, error)
	// serverTLS says that the proxy has TLS to the server.
	serverTLS bool
	// recycles says that it gives a client the server connection of an earlier one, which saves the server's part of a login.
	recycles bool
	// loginsOnly says that it differs from another target in logins alone, and runs only the workloads of those.
	loginsOnly bool
	// rival is the target that its CPU is compared with; empty is the PgBouncer that does the same work.
	rival string
}

const (
	// baseline is the target whose rate is 1.
	baseline = "direct-tls"
	// relayed is the program with TLS on both legs, in the mode relay.
	relayed = "pgreplicaproxy-tls"
)

// targets are all there are, in the order of the report.
func targets() []target {
	return []target{
		{name: baseline, quick: true, about: "no proxy, TLS"},
		{name: "direct-plain", plain: true, about: "no proxy, no TLS at all"},
		{name: "pgreplicaproxy", quick: true, launch: pgreplicaproxy(plainLeg), about: "plain to the server"},
		{
			name: relayed, quick: true, launch: pgreplicaproxy(tlsLeg + relay), serverTLS: true,
			about: "TLS to the server, which has the same certificate",
		},
		{
			name: "pgreplicaproxy-passthrough", quick: true, launch: pgreplicaproxy(tlsLeg + passthrough), serverTLS: true,
			loginsOnly: true, rival: relayed, about: "the same with scram_passthrough, each leg bound to its own certificate",
		},
		{
			name: "pgbouncer", quick: true, launch: pgbouncer(false, true), recycles: true,
			about: "session pooling, plain to the server; its logins reuse server connections",
		},
		{
			name: "pgbouncer-tls", quick: true, launch: pgbouncer(true, true), serverTLS: true, recycles: true,
			about: "the same with TLS to the server",
		},
		{
			name: "pgbouncer-norecycle", quick: true, launch: pgbouncer(false, false), loginsOnly: true,
			about: "with server_lifetime = 0: one server connection for each client connection",
		},
		{
			name: "pgbouncer-tls-norecycle", quick: true, launch: pgbouncer(true, false), serverTLS: true, loginsOnly: true,
			about: "the same with TLS to the server",
		},
		{name: "haproxy", launch: haproxy, about: "passes TCP on; TLS is between client and server"},
	}
}

func (t target) called() (name string, quick bool) { return t.name, t.quick }

// peer is the name of the target that its CPU is compared with: the PgBouncer that does the same work, with the same kind of
// connection to the server and, where logins are counted, one for each login.
func (t target) peer(w workload) string {
	if t.rival != "" {
		return t.rival
	}
	name := "pgbouncer"
	if t.serverTLS {
		name += "-tls"
	}
	if w.logins {
		name += "-norecycle"
	}
	return name
}

// runs tells whether the target has a part in a workload.
func (t target) runs(w workload) bool {
	switch {
	case w.sessions > 0:
		return t.launch != nil && !t.loginsOnly
	case t.loginsOnly:
		return w.logins
	default:
		return true
	}
}

// The ways of pgreplicaproxy to the server, as lines of its cluster block.
const (
	plainLeg    = ""
	tlsLeg      = "backend_tls {\n    mode = \"require\"\n  }\n  authentication = "
	passthrough = "\"scram_passthrough\""
	relay       = "\"relay\""
)

// pgreplicaproxy launches the program that all this is about.
func pgreplicaproxy(leg string) func(*rig, string, int) (*exec.Cmd, error) {
	return func(r *rig, dir string, port int) (*exec.Cmd, error) {
		config := fmt.Sprintf(`state_dir     = %q
drain_timeout = "0s"
listen {
  address = "127.0.0.1:%d"
}
tls {
  certificate {
    cert_file = "server.crt"
    key_file  = "server.key"
  }
}
cluster "main" {
  %s
  monitor {
    password = file("monitor.password")
  }
  backend "db1" {
    address = %q
  }
}
`, filepath.Join(dir, "state"), port, leg, r.serverAddress())
		err := r.writeFiles(dir, map[string]string{
			"pgreplicaproxy.hcl": config, "monitor.password": r.monitorPassword,
			"server.crt": string(r.certPEM), "server.key": string(r.keyPEM),
		})
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "pgreplicaproxy.hcl")
		return exec.Command(r.binary, "serve", "--config", path), r.prepare(path)
	}
}

// pgbouncer launches PgBouncer. It gets the role's SCRAM secret: with the clear password it would have to derive the keys
// at each login. Its log is as quiet as ours.
func pgbouncer(serverTLS, recycles bool) func(*rig, string, int) (*exec.Cmd, error) {
	return func(r *rig, dir string, port int) (*exec.Cmd, error) {
		mode, lifetime := "disable", "3600"
		if serverTLS {
			mode = "require"
		}
		if !recycles {
			lifetime = "0"
		}
		config := fmt.Sprintf(`[databases]
%s = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = session
max_client_conn = %d
default_pool_size = %d
server_lifetime = %s
client_tls_sslmode = require
client_tls_cert_file = %s
client_tls_key_file = %s
server_tls_sslmode = %s
log_connections = 0
log_disconnections = 0
`, database, r.server.Port, port, filepath.Join(dir, "users.txt"), r.sessions, r.sessions, lifetime,
			filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"), mode)
		err := r.writeFiles(dir, map[string]string{
			"pgbouncer.ini": config, "users.txt": fmt.Sprintf("%q %q\n", role, r.secret),
			"server.crt": string(r.certPEM), "server.key": string(r.keyPEM),
		})
		return exec.Command(r.pgbouncer, filepath.Join(dir, "pgbouncer.ini")), err
	}
}

// haproxy launches HAProxy as it is used before a PostgreSQL that does its own TLS.
func haproxy(r *rig, dir string, port int) (*exec.Cmd, error) {
	config := fmt.Sprintf(`global
  maxconn %d
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen postgresql
  bind 127.0.0.1:%d
  server db1 %s
`, r.sessions, port, r.serverAddress())
	err := r.writeFiles(dir, map[string]string{"haproxy.cfg": config})
	return exec.Command(r.haproxy, "-db", "-f", filepath.Join(dir, "haproxy.cfg")), err
}
