package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// patroni is a cluster of three nodes that Patroni manages, with an etcd of its own. node3 has the tag noloadbalance.
type patroni struct {
	t     *testing.T
	dir   string
	nodes []*patroniNode
}

type patroniNode struct {
	name       string
	port, rest int // of PostgreSQL, and of Patroni's REST interface
	config     string
	cmd        *exec.Cmd
}

// startPatroni starts the cluster for the length of the test, with the roles and databases of all tests, and returns when both
// standbys follow.
func startPatroni(t *testing.T) *patroni {
	t.Helper()
	found := installation(t, versions[0])
	for _, name := range []string{"patroni", "etcd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v (internal/e2e/install.sh installs it)", err)
		}
	}
	p := &patroni{t: t, dir: t.TempDir()}
	for dir := p.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) { // for the account of the servers
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	etcd := fmt.Sprintf("http://127.0.0.1:%d", unusedPort(t))
	p.start(p.home("etcd"), "etcd", "--data-dir", filepath.Join(p.dir, "etcd", "data"), "--listen-client-urls", etcd,
		"--advertise-client-urls", etcd, "--listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", unusedPort(t)), "--unsafe-no-fsync")
	for i := range 3 {
		n := &patroniNode{name: fmt.Sprintf("node%d", i+1), port: unusedPort(t), rest: unusedPort(t)}
		n.config = p.configure(n, strings.TrimPrefix(etcd, "http://"), found.BinDir)
		n.cmd = p.start(filepath.Dir(n.config), "patroni", n.config)
		p.nodes = append(p.nodes, n)
		if i == 0 {
			p.wait("node1 leads", func(m []patroniMember) bool { return len(m) == 1 && m[0].Role == "leader" && m[0].State == "running" })
			p.prepare(n)
		}
	}
	p.wait("both standbys follow", func(m []patroniMember) bool { return len(m) == 3 && following(m) == 2 })
	return p
}

// unusedPort is a port that nobody listens on at the moment.
func unusedPort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

// home makes a directory that belongs to the account of the servers.
func (p *patroni) home(name string) string {
	p.t.Helper()
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if account := credential(p.t, "postgres"); account != nil {
		if err := os.Chown(dir, int(account.Uid), int(account.Gid)); err != nil {
			p.t.Fatal(err)
		}
	}
	return dir
}

// start starts a program as the account of the servers. At the test's end it is told to stop, which stops its server too.
func (p *patroni) start(home, name string, args ...string) *exec.Cmd {
	p.t.Helper()
	log, err := os.Create(home + ".log")
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, log, log
	cmd.Env = cleanEnvironment("HOME="+home, "LANG=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(p.t, "postgres")}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
		if p.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			p.t.Logf("log of %s:\n%s", filepath.Base(home), text[max(0, len(text)-4000):])
		}
	})
	return cmd
}

// configure writes a node's configuration.
func (p *patroni) configure(n *patroniNode, etcd, binDir string) string {
	p.t.Helper()
	home := p.home(n.name)
	text := fmt.Sprintf(`scope: main
name: %s
restapi: {listen: "127.0.0.1:%[3]d", connect_address: "127.0.0.1:%[3]d"}
etcd3: {hosts: "%[4]s"}
bootstrap:
  dcs: {ttl: 20, loop_wait: 1, retry_timeout: 3}
  initdb: [{encoding: UTF8}, no-sync]
postgresql:
  listen: "127.0.0.1:%[2]d"
  connect_address: "127.0.0.1:%[2]d"
  data_dir: %[5]s/data
  bin_dir: %[6]s
  pgpass: %[5]s/pgpass
  authentication:
    superuser: {username: postgres, password: super-secret}
    replication: {username: replicator, password: replicator-secret}
  parameters: {unix_socket_directories: "", fsync: "off", password_encryption: scram-sha-256}
  pg_hba:
  - host all all 127.0.0.1/32 scram-sha-256
  - host replication all 127.0.0.1/32 scram-sha-256
`, n.name, n.port, n.rest, etcd, home, binDir)
	if n.name == "node3" {
		text += "tags: {noloadbalance: true}\n"
	}
	file := filepath.Join(home, "patroni.yml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return file
}

// prepare makes the roles and databases on the leader.
func (p *patroni) prepare(n *patroniNode) {
	p.t.Helper()
	ctx := testContext(p.t)
	for database, statements := range map[string][]string{"postgres": {
		"CREATE ROLE " + appUser + " LOGIN PASSWORD '" + appPassword + "'",
		"CREATE ROLE " + monitorUser + " LOGIN PASSWORD '" + monitorPassword + "' IN ROLE pg_monitor",
		"CREATE DATABASE app OWNER " + appUser,
	}} {
		conn := p.superuser(ctx, n, database)
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
				p.t.Fatal(err)
			}
		}
		_ = conn.Close(ctx)
	}
}

func (p *patroni) superuser(ctx context.Context, n *patroniNode, database string) *pgconn.PgConn {
	p.t.Helper()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("postgresql://postgres:super-secret@127.0.0.1:%d/%s?sslmode=disable", n.port, database))
	if err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// patroniMember is what the test reads of GET /cluster.
type patroniMember struct {
	Name, Role, State string
	Lag               any
}

// members asks any node that answers.
func (p *patroni) members() []patroniMember {
	for _, n := range p.nodes {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/cluster", n.rest))
		if err != nil {
			continue
		}
		var answer struct{ Members []patroniMember }
		err = json.NewDecoder(response.Body).Decode(&answer)
		_ = response.Body.Close()
		if err == nil {
			return answer.Members
		}
	}
	return nil
}

// following counts the standbys that have caught up.
func following(members []patroniMember) int {
	n := 0
	for _, m := range members {
		if m.Role == "replica" && m.Lag == 0.0 && (m.State == "running" || m.State == "streaming") {
			n++
		}
	}
	return n
}

func (p *patroni) wait(what string, done func([]patroniMember) bool) {
	p.t.Helper()
	for over := time.Now().Add(2 * patience); !done(p.members()); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(over) {
			p.t.Fatalf("it never came to be that %s: %+v", what, p.members())
		}
	}
}

// switchover makes another node lead, by patronictl.
func (p *patroni) switchover(from, to *patroniNode) {
	p.t.Helper()
	cmd := exec.Command("patronictl", "-c", from.config, "switchover", "--master", from.name, "--candidate", to.name, "--force")
	cmd.Env = cleanEnvironment("HOME="+p.dir, "LANG=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Successfully switched over")) {
		p.t.Fatalf("patronictl: %v\n%s", err, out)
	}
}

// signal sends a signal to every Patroni, and none to the servers.
func (p *patroni) signal(sig syscall.Signal) {
	p.t.Helper()
	for _, n := range p.nodes {
		if err := n.cmd.Process.Signal(sig); err != nil {
			p.t.Fatal(err)
		}
	}
}

// hcl is a cluster block that names Patroni and no server.
func (p *patroni) hcl() string {
	var urls []string
	for _, n := range p.nodes {
		urls = append(urls, fmt.Sprintf(`"http://127.0.0.1:%d"`, n.rest))
	}
	return "cluster \"main\" {\n  hold_primary = \"30s\"\n  monitor {\n    password = file(\"monitor.password\")\n    interval = \"200ms\"\n  }\n" +
		"  patroni {\n    urls = [" + strings.Join(urls, ", ") + "]\n    interval = \"200ms\"\n  }\n}\n"
}
