package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// upgrade has the program replaced by a new process, which is the one that the test talks of from here on.
func (p *program) upgrade() {
	p.t.Helper()
	seen := strings.Count(p.log(), `"msg":"upgraded"`)
	p.signal(syscall.SIGUSR2)
	entry := p.waitLogAfter(seen, "upgraded", nil)
	p.pid = int(entry["successor"].(float64))
}

// upgradeByCommand is upgrade by the command of that name.
func (p *program) upgradeByCommand() {
	p.t.Helper()
	out := shell(p.t, p.dir, nil, binary, "upgrade")
	if _, err := fmt.Sscanf(out, "process %d serves new clients now\n", &p.pid); err != nil {
		p.t.Fatalf("the command says %q", out)
	}
}

// lastingHCL lets sessions stay with a process that was replaced.
const lastingHCL = "drain_timeout = \"10m\"\n" + listenHCL

// Twenty upgrades under clients that connect all the time: none of them notices, and the sessions from before go on, and can be
// cancelled, on whichever of the processes they are.
func TestUpgradeUnderLoad(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, lastingHCL+oneStandby(c, `hold_primary = "10s"`)) // a successor may not have heard of the servers yet
	script := filepath.Join(t.TempDir(), "script.sql")
	if err := os.WriteFile(script, []byte("SELECT 1;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dsn := p.dsn("app")
	var load sync.WaitGroup
	stop := make(chan struct{})
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			cmd := exec.CommandContext(testContext(t), "pgbench", "-n", "-C", "-c", "4", "-t", "25", "-f", script, dsn)
			cmd.Env = cleanEnvironment()
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "100/100") {
				t.Errorf("pgbench: %v\n%s", err, out)
				return
			}
		}
	})
	sessions := []*pgconn.PgConn{connect(t, dsn)}
	for i := range 20 {
		p.upgrade()
		if i%5 == 0 {
			sessions = append(sessions, connect(t, dsn))
		}
	}
	close(stop)
	load.Wait()
	for i, conn := range sessions {
		mark := fmt.Sprintf("upgraded_%d", i)
		ended := startQuery(testContext(t), conn, endless(mark))
		waitActive(t, c.Servers()[0], mark)
		if err := conn.CancelRequest(testContext(t)); err != nil {
			t.Error(err)
		}
		checkState(t, <-ended, "57014")
		if got := show(t, conn, "SELECT 'still here'"); got != "still here" {
			t.Errorf("session %d answers %q", i, got)
		}
	}
	if log := p.log(); strings.Contains(log, `"ERROR"`) {
		t.Errorf("the log has errors:\n%s", log)
	}
}

// A process that was replaced ends with its last session, or at drain_timeout; the sockets stay with the last process, and their
// files end with it.
func TestUpgradeOfUnixSocket(t *testing.T) {
	c := sharedCluster(t, versions[0])
	dir := t.TempDir()
	socket := filepath.Join(dir, ".s.PGSQL.7432")
	pidFile := filepath.Join(dir, "pid")
	p := launchAs(t, fmt.Sprintf("drain_timeout = \"1s\"\nlisten {\n  address = %q\n  tls = \"optional\"\n}\n", socket)+clusterHCL(c),
		nil, binary, "serve", "--pid-file", pidFile)
	p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	dsn := fmt.Sprintf("host=%s port=7432 user=%s password=%s dbname=app", dir, appUser, appPassword)
	wantPID := func(when string) {
		t.Helper()
		if content, err := os.ReadFile(pidFile); string(content) != fmt.Sprintln(p.process()) {
			t.Errorf("pid file %s: %q, %v, want %d", when, content, err, p.process())
		}
	}
	conn := connect(t, dsn)
	for _, upgrade := range []func(){p.upgrade, p.upgradeByCommand} {
		upgrade()
		wantPID("after an upgrade")
		if got := query(t, dsn, "SELECT 1"); got != "1" {
			t.Errorf("got %q", got)
		}
	}
	if got := told(t, conn); got.Code != "57P01" { // by the first process, at drain_timeout
		t.Errorf("the session ends with %+v, want 57P01", got)
	}
	wantPID("after the first process has ended")
	p.stop()
	for _, file := range []string{socket, pidFile} {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is left", file)
		}
	}
}

// An upgrade that fails changes nothing: here the configuration has become invalid, which a new process does not accept.
func TestUpgradeFails(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, lastingHCL+clusterHCL(c))
	dsn := p.dsn("app")
	conn := connect(t, dsn)
	p.write("pgreplicaproxy.hcl", "nonsense = true\n")
	for seen := range 2 {
		p.signal(syscall.SIGUSR2)
		entry := p.waitLogAfter(seen, "upgrade failed, this process goes on", nil)
		if err := fmt.Sprint(entry["err"]); !strings.Contains(err, "exit status 2") {
			t.Errorf("the log says %q", err)
		}
		if got := query(t, dsn, "SELECT 1"); got != "1" {
			t.Errorf("new session: %q", got)
		}
		if got := show(t, conn, "SELECT 2"); got != "2" {
			t.Errorf("session from before: %q", got)
		}
	}
}

// A client that was accepted before an upgrade, and is still negotiating, logs in where it is.
func TestUpgradeDuringNegotiation(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, lastingHCL+clusterHCL(c))
	client := p.dialRaw(t)
	read := func(want byte) {
		t.Helper()
		var got [1]byte
		if _, err := io.ReadFull(client, got[:]); err != nil || got[0] != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	client.say(gssEncRequest)
	read('N') // so it was accepted, by the only process there is
	p.upgrade()
	client.say(sslRequest)
	read('S')
	client.secure("postgresql")
	client.say(asApp("app"))
	read('R') // AuthenticationSASL
}
