//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The role and the database of the clients, and the role of the program's monitor.
const (
	role        = "app"
	database    = "app"
	monitorRole = "pgreplicaproxy"
)

// rig is what all targets share.
type rig struct {
	dir     string // everything is in here, but for the server's own directory
	cluster *pgcluster.Cluster
	server  *pgcluster.Server

	sessions int // how many the server and the proxies are set up for

	certPEM, keyPEM []byte // of the server and of every proxy that ends TLS
	password        string // of the role
	secret          string // the same as the server stores it
	monitorPassword string

	binary, pgbouncer, haproxy, pgbench, psql string // paths of programs

	account *syscall.Credential // for programs that refuse to run as root; nil if this process is not root's
}

// newRig starts a server with the data of all workloads. The caller closes it.
func newRig(ctx context.Context, s settings) (_ *rig, err error) {
	r := &rig{sessions: s.sessions(), password: rand.Text(), monitorPassword: rand.Text()}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	installation, err := pgcluster.Find(0)
	if err != nil {
		return nil, err
	}
	if err := r.findPrograms(s.binary, installation.BinDir); err != nil {
		return nil, err
	}
	if r.account, err = unprivileged(); err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "pgreplicaproxy-bench-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(r.dir, 0o711); err != nil { // the account has a directory below it
		return nil, err
	}
	if r.certPEM, r.keyPEM, err = certificate(); err != nil {
		return nil, err
	}
	clearEnvironment(r.dir)
	if err := r.startServer(ctx, installation); err != nil {
		return nil, err
	}
	return r, r.load(ctx)
}

// close stops the server and removes everything.
func (r *rig) close() error {
	var err error
	if r.cluster != nil {
		err = r.cluster.Stop(context.Background())
	}
	if r.dir != "" {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	return err
}

// startServer starts PostgreSQL, without work of its own in the background, and makes the roles.
func (r *rig) startServer(ctx context.Context, installation pgcluster.Installation) (err error) {
	r.cluster, err = pgcluster.Start(ctx, pgcluster.Config{
		Installation: installation,
		TLS:          func(string) ([]byte, []byte) { return r.certPEM, r.keyPEM },
		Settings: map[string]string{
			"max_connections": strconv.Itoa(r.sessions), "shared_buffers": "1GB", "synchronous_commit": "off",
			"autovacuum": "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1h", "max_wal_size": "8GB",
			"wal_keep_size": "0",
		},
	})
	if err != nil {
		return err
	}
	r.server = r.cluster.Servers()[0]
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD '" + r.password + "'",
		"CREATE ROLE " + monitorRole + " LOGIN PASSWORD '" + r.monitorPassword + "'",
		"GRANT pg_monitor TO " + monitorRole,
		"CREATE DATABASE " + database + " OWNER " + role,
	} {
		if err := r.server.Exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	r.secret, err = r.server.QueryString(ctx, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+role+"'")
	return err
}

// prepare runs on the server what the program wants to find there.
func (r *rig) prepare(config string) error {
	sql, err := exec.Command(r.binary, "sql", "--config", config).Output()
	if err != nil {
		return fmt.Errorf("pgreplicaproxy sql: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.server.Exec(ctx, "postgres", string(sql))
}

// quiet waits until the server has ended the sessions of the run before, which costs CPU time.
func (r *rig) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		left, err := r.server.QueryString(ctx, "postgres", "SELECT count(*) FROM pg_stat_activity "+
			"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
		if err != nil || left == "0" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s sessions did not end: %w", left, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (r *rig) serverAddress() string {
	return net.JoinHostPort(r.server.Host, strconv.Itoa(r.server.Port))
}

// endpoint is where clients connect, on loopback.
type endpoint struct {
	port  int
	plain bool
}

// conninfo is the connection string for libpq, without the password.
func (e endpoint) conninfo() string {
	mode := "require"
	if e.plain {
		mode = "disable"
	}
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=%s gssencmode=disable connect_timeout=30",
		e.port, role, database, mode)
}

// connect logs in from this process.
func (r *rig) connect(ctx context.Context, e endpoint) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig("host=127.0.0.1 passfile='' sslmode=disable connect_timeout=30")
	if err != nil {
		return nil, err
	}
	config.Port, config.User, config.Password, config.Database = uint16(e.port), role, r.password, database
	if !e.plain {
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true} // what sslmode=require means
	}
	return pgconn.ConnectConfig(ctx, config)
}

// findPrograms finds everything there is to run, the clients preferably beside the server: on PATH, Debian has scripts.
func (r *rig) findPrograms(binary, binDir string) error {
	var errs []error
	find := func(places ...string) string {
		var path string
		err := errors.New("no place to look")
		for i := 0; i < len(places) && err != nil; i++ {
			path, err = exec.LookPath(places[i])
		}
		errs = append(errs, err)
		return path
	}
	r.pgbouncer = find("pgbouncer", "/usr/sbin/pgbouncer")
	r.haproxy = find("haproxy", "/usr/sbin/haproxy")
	r.pgbench = find(filepath.Join(binDir, "pgbench"), "pgbench")
	r.psql = find(filepath.Join(binDir, "psql"), "psql")
	binary, err := filepath.Abs(binary)
	r.binary = find(binary)
	if err = errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("%w\n`make bench` builds and installs what is missing", err)
	}
	return nil
}

// unprivileged returns the account that PostgreSQL runs as too when this process is root's.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	found, err := user.Lookup("postgres")
	if err != nil {
		if found, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, errUID := strconv.ParseUint(found.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(found.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(errUID, errGID)
}
