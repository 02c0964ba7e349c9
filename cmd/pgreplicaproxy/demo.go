package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

func newDemoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Serve a throwaway cluster, to try the program out",
		Long: "Start a throwaway primary with standbys on this machine, serve TLS in front of them, print lines for psql that\n" +
			"work from another terminal, and follow what happens until Ctrl-C, which leaves nothing behind.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case d.standbys < 0:
				return usageError{fmt.Errorf("--standbys takes 0 or more, not %d", d.standbys)}
			case d.port < 0 || d.port > 65535:
				return usageError{fmt.Errorf("--port takes a port, not %d", d.port)}
			}
			d.out = cmd.OutOrStdout()
			stop, release := notifyStops(syscall.SIGHUP) // a closed terminal
			defer release()
			return d.run(stop)
		},
	}
	cmd.Flags().IntVar(&d.port, "port", 7432, "port to serve on, on loopback; another one is taken if it is in use")
	cmd.Flags().IntVar(&d.standbys, "standbys", 2, "number of standbys")
	cmd.AddCommand(newDemoFailoverCommand())
	return cmd
}

// demo is one run of the demonstration.
type demo struct {
	port, standbys int
	out            io.Writer

	dir      string // everything it makes is in here
	address  string
	page     string // address of the status page
	password string // of role app
	cluster  *pgcluster.Cluster
}

// run shows the program from an empty directory to Ctrl-C.
func (d *demo) run(stop stops) (err error) {
	ctx, cancel := context.WithCancel(stop.now)
	defer cancel()
	go func() { // Ctrl-C ends the start as well
		select {
		case <-stop.drain:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := d.makeDir(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	defer func() {
		if d.cluster != nil {
			d.step("stopping PostgreSQL")
			err = errors.Join(err, d.cluster.Stop(context.Background()))
		}
	}()
	if err := d.startCluster(ctx); err != nil {
		return interruptedOr(ctx, err)
	}
	cfg, err := d.configure(ctx)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	withdraw, err := d.offerFailovers(ctx)
	if err != nil {
		return err
	}
	defer withdraw()
	return serve(stop, cfg, d.load, openLog(d.out, cfg.LogLevel, cfg.LogFormat), nil, d.explain)
}

// interruptedOr returns nil for an error that Ctrl-C caused.
func interruptedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (d *demo) step(text string) { _, _ = fmt.Fprintf(d.out, "... %s\n", text) }

// makeDir makes the demo's directory, readable for all: it holds the root certificate that psql lines refer to.
func (d *demo) makeDir() error {
	dir, err := os.MkdirTemp("", demoDirPattern)
	if err != nil {
		return err
	}
	d.dir = dir
	return os.Chmod(dir, 0o755)
}

// startCluster starts the servers and makes the role and the database that visitors use.
func (d *demo) startCluster(ctx context.Context) error {
	installation, err := pgcluster.Find(0)
	if err != nil {
		return err
	}
	d.step(fmt.Sprintf("PostgreSQL %d from %s", installation.Version, installation.BinDir))
	d.cluster, err = pgcluster.Start(ctx, pgcluster.Config{
		Installation: installation, Standbys: d.standbys, Progress: d.step,
	})
	if err != nil {
		return err
	}
	d.password = rand.Text()[:12]
	primary := d.cluster.Servers()[0]
	d.step("creating role and database app")
	for _, sql := range []string{
		"CREATE ROLE app LOGIN PASSWORD '" + d.password + "'",
		"CREATE DATABASE app OWNER app",
	} {
		if err := primary.Exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	for _, standby := range d.cluster.Servers()[1:] {
		if err := standby.WaitReplay(ctx, primary); err != nil {
			return err
		}
	}
	return nil
}

// configure writes a configuration file as an operator would, loads it, and makes the monitor's role.
func (d *demo) configure(ctx context.Context) (*config, error) {
	monitorPassword := rand.Text()
	var err error
	if d.address, err = freeAddress(d.port); err != nil {
		return nil, err
	}
	page := d.port
	if page > 0 {
		page++ // 0 is any
	}
	if d.page, err = freeAddress(page); err != nil {
		return nil, err
	}
	passwordFile := filepath.Join(d.dir, "monitor.password")
	if err := os.WriteFile(passwordFile, []byte(monitorPassword), 0o600); err != nil {
		return nil, err
	}
	file := d.file()
	if err := os.WriteFile(file, d.hcl(), 0o600); err != nil {
		return nil, err
	}
	cfg, diags := d.load()
	if err := reportDiagnostics(d.out, file, diags); err != nil {
		return nil, err
	}
	if err := d.makeMonitor(ctx, cfg, monitorPassword); err != nil {
		return nil, err
	}
	ca, err := openLocalCA(cfg)
	if err != nil {
		return nil, err
	}
	return cfg, os.WriteFile(d.rootFile(), ca.RootPEM(), 0o644)
}

// makeMonitor runs what the command sql prints, and gives the role its password.
func (d *demo) makeMonitor(ctx context.Context, cfg *config, password string) error {
	var sql strings.Builder
	monitor := cfg.Clusters[0].Monitor
	if err := writeSQL(&sql, monitor, noSecrets); err != nil {
		return err
	}
	fmt.Fprintf(&sql, "ALTER ROLE %s PASSWORD %s;\n", quoteIdentifier(monitor.Credentials.User), quoteLiteral(password))
	return d.cluster.Servers()[0].Exec(ctx, "postgres", sql.String())
}

func (d *demo) file() string { return filepath.Join(d.dir, "pgreplicaproxy.hcl") }

// load reads the configuration.
func (d *demo) load() (*config, diagnostics) { return loadConfig(d.file()) }

func (d *demo) rootFile() string { return filepath.Join(d.dir, "root.crt") }

// hcl is the demo's configuration.
func (d *demo) hcl() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "state_dir     = %q\ndrain_timeout = \"2s\"\n\n", filepath.Join(d.dir, "state"))
	b.WriteString("log {\n  level  = \"debug\"\n  format = \"text\"\n}\n\n")
	fmt.Fprintf(&b, "listen {\n  address = %q\n}\n\n", d.address)
	fmt.Fprintf(&b, "admin {\n  address = %q\n}\n\n", d.page)
	b.WriteString("cluster \"demo\" {\n  monitor {\n    password = file(\"monitor.password\")\n  }\n")
	for _, s := range d.cluster.Servers() {
		fmt.Fprintf(&b, "  backend %q {\n    address = %q\n  }\n", s.Name, net.JoinHostPort(s.Host, fmt.Sprint(s.Port)))
	}
	b.WriteString("}\n")
	return []byte(b.String())
}

// freeAddress returns a loopback address with the port wanted, or with a free one.
func freeAddress(port int) (string, error) {
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", err
		}
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String(), nil
}

// explain prints what the monitor sees, and what to type.
func (d *demo) explain(s *service) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }
	p("\nServers, as the monitor sees them:")
	for _, st := range s.server.Snapshots()["demo"].States {
		p("  %-4s %-8s %s", st.Target.Name, st.Role, st.Target.Address)
	}
	dsn := func(database string) string {
		host, port, _ := net.SplitHostPort(d.address)
		return fmt.Sprintf("postgresql://app:%s@%s:%s/%s?sslmode=verify-full&sslrootcert=%s", d.password, host, port, database, d.rootFile())
	}
	p("\nFrom another terminal, the primary:\n")
	p("  psql '%s'", dsn("app"))
	p("\na standby, by the database name alone:\n")
	p("  psql '%s'", dsn("app_replica"))
	p("\nand which server that is:\n")
	p("  psql '%s' -c 'SELECT inet_server_port() AS port, pg_is_in_recovery() AS standby'", dsn("app_replica"))
	p("\nDSN for a program:\n\n  %s\n", dsn("app"))
	p("Status page: http://%s/", d.page)
	p("`pgreplicaproxy demo failover`, or `make demo-failover`, kills the primary and promotes a standby, to be watched there.")
	p("The configuration is %s.", d.file())
	p("Started in front of %d servers at %s. Ctrl-C stops everything and leaves nothing behind.\n", len(d.cluster.Servers()),
		time.Now().Format(time.TimeOnly))
}
