package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// patience bounds every wait for a condition. It is no expectation of speed: a test that meets it has failed.
const patience = 60 * time.Second

// Roles and databases that every cluster of the tests has. The passwords are ordinary ones, so that they can stand in
// connection strings as they are.
const (
	appUser, appPassword         = "app", "app-secret"
	monitorUser, monitorPassword = "pgreplicaproxy", "monitor-secret"
)

// binary is the built program.
var binary string

// TestMain builds the program once, with the race detector if the tests have it, and stops the shared servers at the end.
func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pgreplicaproxy-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "pgreplicaproxy")
	// For the programs started: with the race detector each would sleep for a second before it exits.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	build := exec.Command("go", append(append([]string{"build"}, raceFlag...), "-o", binary, "../../cmd/pgreplicaproxy")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	defer stopShared()
	return m.Run()
}

// testContext bounds a test's whole work.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	t.Cleanup(cancel)
	return ctx
}

// installation returns PostgreSQL of a major version, 0 for any. Without one the test is skipped, but fails where
// PGREPLICAPROXY_E2E says that all tests must run.
func installation(t *testing.T, version int) pgcluster.Installation {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	found, err := pgcluster.Find(version, os.Getenv("PGREPLICAPROXY_NPM_PG"))
	if err == nil {
		return found
	}
	if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
		t.Fatal(err)
	}
	t.Skip(err)
	return pgcluster.Installation{}
}

// versions are the major versions that the tests for every server run on: Debian's, and the newest.
var versions = []int{15, 18}

// startCluster starts a cluster of its own for a test that disturbs its servers.
func startCluster(t *testing.T, cfg pgcluster.Config) *pgcluster.Cluster {
	t.Helper()
	if cfg.Installation.BinDir == "" {
		cfg.Installation = installation(t, versions[0])
	}
	c, err := newCluster(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background()); err != nil {
			t.Errorf("stop cluster: %v", err)
		}
	})
	return c
}

// newCluster starts a cluster with the roles and databases of the tests.
func newCluster(ctx context.Context, cfg pgcluster.Config) (*pgcluster.Cluster, error) {
	c, err := pgcluster.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	primary := c.Servers()[0]
	for _, sql := range []string{
		"CREATE ROLE " + appUser + " LOGIN REPLICATION PASSWORD '" + appPassword + "'",
		"CREATE ROLE " + monitorUser + " LOGIN PASSWORD '" + monitorPassword + "'",
		"GRANT pg_monitor TO " + monitorUser,
		"CREATE DATABASE app OWNER " + appUser,
	} {
		err = errors.Join(err, primary.Exec(ctx, "postgres", sql))
	}
	for _, standby := range c.Servers()[1:] {
		err = errors.Join(err, standby.WaitReplay(ctx, primary))
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop(ctx))
	}
	return c, nil
}

// shared are clusters of a primary with two standbys, one for each version, that tests use which leave servers alone.
var shared struct {
	sync.Mutex
	clusters map[int]*pgcluster.Cluster
}

func sharedCluster(t *testing.T, version int) *pgcluster.Cluster {
	t.Helper()
	found := installation(t, version)
	shared.Lock()
	defer shared.Unlock()
	if c := shared.clusters[version]; c != nil {
		return c
	}
	c, err := newCluster(testContext(t), pgcluster.Config{
		Installation: found, Standbys: 2, TLS: serverCertificate,
	})
	if err != nil {
		t.Fatal(err)
	}
	if shared.clusters == nil {
		shared.clusters = make(map[int]*pgcluster.Cluster)
	}
	shared.clusters[version] = c
	return c
}

func stopShared() {
	shared.Lock()
	defer shared.Unlock()
	for _, c := range shared.clusters {
		if err := c.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "stop shared cluster:", err)
		}
	}
}

// program is the built program, serving.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	pid  int    // of the process that serves new clients, where that is a successor of cmd's
	dir  string // its configuration and state
	addr string // of its first listener
	done chan struct{}
	err  error // of the process, once done

	mu   sync.Mutex
	logs []map[string]any
	text bytes.Buffer
	more chan struct{} // closed and renewed at every line
}

// prompt adds to the lines of a cluster block that nobody waits for a server, and that servers that come back are used at once,
// unless they say otherwise: most tests want to see at once what is so.
func prompt(lines []string) []string {
	for _, key := range []string{"hold_primary", "hold_replica", "slow_start"} {
		if !strings.Contains(strings.Join(lines, "\n"), key) {
			lines = append(lines[:len(lines):len(lines)], key+" = \"0s\"")
		}
	}
	return lines
}

// clusterHCL is a cluster block for servers, with lines added to it.
func clusterHCL(c *pgcluster.Cluster, lines ...string) string {
	var b strings.Builder
	b.WriteString("cluster \"main\" {\n")
	for _, line := range prompt(lines) {
		b.WriteString("  " + line + "\n")
	}
	b.WriteString("  monitor {\n    password = file(\"monitor.password\")\n    interval = \"200ms\"\n  }\n")
	for _, s := range c.Servers() {
		fmt.Fprintf(&b, "  backend %q {\n    address = %q\n  }\n", s.Name, net.JoinHostPort(s.Host, fmt.Sprint(s.Port)))
	}
	b.WriteString("}\n")
	return b.String()
}

// listenHCL is a listener on a free port.
const listenHCL = "listen {\n  address = \"127.0.0.1:0\"\n}\n"

// serve starts the program with a configuration and waits until it accepts clients. At the test's end it is stopped by
// SIGTERM, and must then exit with 0.
func serve(t *testing.T, hcl string) *program {
	t.Helper()
	p := launchAs(t, hcl, nil, binary, "serve")
	p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	return p
}

// launchAs starts the program by a command, to which the configuration is added, in an environment with additions.
func launchAs(t *testing.T, hcl string, env []string, command ...string) *program {
	t.Helper()
	p := &program{t: t, dir: t.TempDir(), done: make(chan struct{}), more: make(chan struct{})}
	p.write("monitor.password", monitorPassword)
	p.configure(hcl)
	p.start(env, command...)
	return p
}

// start starts the program by a command with the configuration that is in its directory.
func (p *program) start(env []string, command ...string) {
	p.t.Helper()
	p.cmd = exec.Command(command[0], append(command[1:], "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl"))...)
	p.cmd.Env = cleanEnvironment(env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // one group with its successors
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go p.follow(stderr)
	p.t.Cleanup(p.stop)
}

// configure writes the configuration, with what all tests have in common.
func (p *program) configure(hcl string) {
	p.t.Helper()
	hcl = fmt.Sprintf("state_dir = %q\nlog {\n  level = \"debug\"\n  format = \"json\"\n}\n", filepath.Join(p.dir, "state")) + hcl
	if !strings.Contains(hcl, "drain_timeout") {
		hcl = "drain_timeout = \"0s\"\n" + hcl
	}
	if !strings.Contains(hcl, "limits {") { // the tests come from one address, and many guess passwords
		hcl = "limits {\n  throttle {\n    failures = 0\n  }\n}\n" + hcl
	}
	p.write("pgreplicaproxy.hcl", hcl)
}

// write puts a file beside the configuration.
func (p *program) write(name, content string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// follow reads the log until the program ends.
func (p *program) follow(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry map[string]any
		_ = json.Unmarshal(lines.Bytes(), &entry) // a panic's text is none
		p.mu.Lock()
		p.text.Write(append(lines.Bytes(), '\n'))
		if entry != nil {
			p.logs = append(p.logs, entry)
		}
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// waitLog returns the first log entry with that message and those attributes, waiting for it.
func (p *program) waitLog(message string, attrs map[string]any) map[string]any {
	p.t.Helper()
	return p.waitLogAfter(0, message, attrs)
}

// waitLogAfter is waitLog for the entry behind the first n such ones.
func (p *program) waitLogAfter(n int, message string, attrs map[string]any) map[string]any {
	p.t.Helper()
	timeout := time.After(patience)
	for seen := 0; ; {
		p.mu.Lock()
		more := p.more
		for ; seen < len(p.logs); seen++ {
			if entry := p.logs[seen]; entry["msg"] == message && contains(entry, attrs) {
				if n--; n < 0 {
					p.mu.Unlock()
					return entry
				}
			}
		}
		p.mu.Unlock()
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("the program ended before it logged %q %v:\n%s", message, attrs, p.log())
		case <-timeout:
			p.t.Fatalf("the program never logged %q %v:\n%s", message, attrs, p.log())
		}
	}
}

func contains(entry, attrs map[string]any) bool {
	for k, v := range attrs {
		if fmt.Sprint(entry[k]) != fmt.Sprint(v) {
			return false
		}
	}
	return true
}

// log returns everything the program has logged so far.
func (p *program) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// process is the process id of the one that serves new clients.
func (p *program) process() int {
	if p.pid == 0 { // which would be everybody, to kill(2)
		return p.cmd.Process.Pid
	}
	return p.pid
}

// signal sends a signal to the program.
func (p *program) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(p.process(), sig); err != nil {
		p.t.Fatal(err)
	}
}

// stop ends the program as an operator would and checks that it ended well.
func (p *program) stop() {
	select {
	case <-p.done: // its number may be another's by now
	default:
		_ = syscall.Kill(p.process(), syscall.SIGTERM)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = syscall.Kill(p.process(), syscall.SIGQUIT) // tells where it hangs
		last := time.AfterFunc(patience, func() {      // a successor that the test never heard of
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		})
		<-p.done
		last.Stop()
		p.t.Errorf("the program did not end:\n%s", p.log())
	}
	if p.err != nil {
		p.t.Errorf("the program ended with %v:\n%s", p.err, p.log())
	}
	if log := p.log(); strings.Contains(log, "DATA RACE") || strings.Contains(log, appPassword) || strings.Contains(log, monitorPassword) {
		p.t.Errorf("the log shows a race or a password:\n%s", log)
	}
	if p.t.Failed() {
		p.t.Logf("log of the program:\n%s", p.log())
	}
}

// rootFile returns the file with the local CA's root certificate, as `pgreplicaproxy ca` prints it.
func (p *program) rootFile() string {
	p.t.Helper()
	path := filepath.Join(p.dir, "root.crt")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	ca := exec.Command(binary, "ca", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl"))
	out, err := ca.Output()
	if err != nil {
		p.t.Fatalf("pgreplicaproxy ca: %v", err)
	}
	p.write("root.crt", string(out))
	return path
}

// dsn returns a connection string through the program as role app, with further parameters such as "sslmode=require".
func (p *program) dsn(database string, params ...string) string {
	p.t.Helper()
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	if !strings.Contains(strings.Join(params, "&"), "sslmode") {
		params = append(params, "sslmode=verify-full", "sslrootcert="+p.rootFile())
	}
	return fmt.Sprintf("postgresql://%s:%s@%s/%s?%s", appUser, appPassword, net.JoinHostPort(host, port), database, strings.Join(params, "&"))
}

// cleanEnvironment is ours without what would steer a PostgreSQL client.
func cleanEnvironment(add ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "PGREPLICAPROXY_") {
			env = append(env, v)
		}
	}
	return append(env, add...)
}

// libpqs are the client libraries that psql is run with: Debian's, and the newest from npm, by LD_LIBRARY_PATH.
func libpqs(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{"libpq15": ""}
	newest := installation(t, 18)
	found["libpq18"] = newest.LibDir
	return found
}

// psql runs psql with a library ("" for the system's) and returns what it prints, without a final newline.
func psql(t *testing.T, libDir, dsn string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), "psql", append([]string{"-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn}, args...)...)
	cmd.Env = cleanEnvironment("PGCONNECT_TIMEOUT=30")
	if libDir != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libDir)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return strings.TrimSuffix(out.String(), "\n"), errs.String(), err
}

// query runs one statement by psql with the system's libpq and returns its output.
func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	out, stderr, err := psql(t, "", dsn, "-c", sql)
	if err != nil {
		t.Fatalf("psql %s: %v\n%s", sql, err, stderr)
	}
	return out
}
