package pgcluster

import (
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Config says what cluster to make. Installation must be set; every other field may stay zero.
type Config struct {
	// Installation holds the programs to run; see Find.
	Installation Installation

	// Dir is where the data directories, logs and sockets go: a directory that exists, or one to be made. What the
	// cluster makes, Stop removes. The user that the servers run as must be able to enter it. Empty means a fresh
	// directory below os.TempDir.
	Dir string

	// Standbys is the number of standbys: the servers are db1, the primary, and db2 and so on, which stream from it.
	Standbys int

	// TLS returns the certificate chain and private key of a server, in PEM. The server then accepts TLS 1.2 and later
	// beside plain connections (which HBA may forbid). A nil function, or one that returns no certificate, leaves TLS
	// off for that server. The files are server.crt and server.key in the data directory.
	TLS func(server string) (certPEM, keyPEM []byte)

	// HBA holds lines for pg_hba.conf, where the first line that matches a connection decides. Two lines that
	// the package itself needs come first: the superuser is trusted on the unix socket, and the role of the standbys
	// may replicate from loopback. Then come these, and then the defaults: SCRAM-SHA-256 for everything else, that is
	// for each role, database and replication connection on the unix socket, 127.0.0.1 and ::1. So to forbid
	// plaintext say "hostnossl all all all reject", and to demand client certificates "hostssl all all all cert".
	HBA []string

	// Settings are parameters for postgresql.conf on every server, without quotes; they override the package's own.
	// Which port, addresses, sockets and certificate a server uses cannot be overridden.
	Settings map[string]string

	// Progress, when not nil, is called from Start before each step, with a few words such as "cloning db2".
	Progress func(step string)

	// Log, when not nil, receives what the servers log, each line with the name of the server in front. The cluster
	// never writes to it from two goroutines at once. The servers' own files are written in any case.
	Log io.Writer

	// User is the operating system user that the servers run as if this process is root's. Empty means "postgres", or
	// "nobody" where there is no such user. It must be empty for everyone else.
	User string
}

// The roles that every cluster has. Their passwords are those in Cluster.
const (
	// SuperuserName is trusted on the unix socket and needs Cluster.SuperuserPassword over TCP.
	SuperuserName = "postgres"
	// ReplicationName is the role as which the standbys stream, with Cluster.ReplicationPassword.
	ReplicationName = "replicator"
)

// loopback is the address that every server listens on. Where there is an IPv6 loopback, ::1 is another.
const loopback = "127.0.0.1"

// Files that the package keeps in each data directory.
const (
	configFile      = "postgresql.conf"
	hbaFile         = "pg_hba.conf"
	certFile        = "server.crt"
	keyFile         = "server.key"
	primaryInfoFile = "primary_conninfo.conf"
	standbySignal   = "standby.signal"
	backupLabelFile = "backup_label"
	postmasterFile  = "postmaster.pid"
)

// baseSettings are the settings of every server, where Config does not say otherwise.
var baseSettings = [...][2]string{
	{"wal_level", "replica"},
	{"hot_standby", "on"},
	{"max_connections", "100"},
	{"password_encryption", "scram-sha-256"},
	// Nothing here outlives the process, so there is no need to wait for the disk.
	{"fsync", "off"},
	{"shared_buffers", "16MB"},
	// A System V or POSIX segment would outlive a killed server; files in its data directory go with that.
	{"dynamic_shared_memory_type", "mmap"},
	// A standby that was frozen or down for a while must find the WAL that it missed.
	{"wal_keep_size", "512MB"},
	{"max_wal_senders", "16"},
	{"wal_retrieve_retry_interval", "100ms"},
	{"log_line_prefix", "%m [%p] %q%u@%d "},
	{"timezone", "UTC"},
	{"log_timezone", "UTC"},
}

// serverConf returns the whole postgresql.conf of a server. Of two lines for one parameter the later counts.
func (s *Server) serverConf() ([]byte, error) {
	var conf strings.Builder
	for _, setting := range baseSettings {
		if err := appendSetting(&conf, setting[0], setting[1]); err != nil {
			return nil, err
		}
	}
	settings := s.cluster.config.Settings
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if err := appendSetting(&conf, name, settings[name]); err != nil {
			return nil, err
		}
	}
	fixed := [][2]string{
		{"cluster_name", s.Name},
		{"listen_addresses", strings.Join(listenAddresses(), ",")},
		{"port", strconv.Itoa(s.Port)},
		{"unix_socket_directories", s.SocketDir},
		{"unix_socket_permissions", "0700"},
	}
	if s.tls {
		fixed = append(fixed, [2]string{"ssl", "on"}, [2]string{"ssl_min_protocol_version", "TLSv1.2"},
			[2]string{"ssl_cert_file", certFile}, [2]string{"ssl_key_file", keyFile})
	}
	for _, setting := range fixed {
		if err := appendSetting(&conf, setting[0], setting[1]); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(&conf, "include '%s'\n", primaryInfoFile)
	return []byte(conf.String()), nil
}

// appendSetting writes one line of a configuration file, quoted as the manual says ("Parameter Interaction via
// the Configuration File").
func appendSetting(conf *strings.Builder, name, value string) error {
	if strings.ContainsAny(name+value, "\n\x00") {
		return fmt.Errorf("setting %q: neither name nor value may hold a line break or a null", name)
	}
	quoted := strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(value)
	fmt.Fprintf(conf, "%s = '%s'\n", name, quoted)
	return nil
}

// hbaConf returns the pg_hba.conf of every server; Config.HBA documents the order.
func (c Config) hbaConf() []byte {
	lines := []string{
		"local all " + SuperuserName + " trust",
		"host replication " + ReplicationName + " 127.0.0.1/32 scram-sha-256",
		"host replication " + ReplicationName + " ::1/128 scram-sha-256",
	}
	lines = append(lines, c.HBA...)
	for _, database := range []string{"all", "replication"} { // "all" does not cover replication connections
		lines = append(lines,
			"local "+database+" all scram-sha-256",
			"host "+database+" all 127.0.0.1/32 scram-sha-256",
			"host "+database+" all ::1/128 scram-sha-256")
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// listenAddresses returns the loopback addresses of this machine.
func listenAddresses() []string {
	addresses := []string{loopback}
	if listener, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = listener.Close()
		addresses = append(addresses, "::1")
	}
	return addresses
}
