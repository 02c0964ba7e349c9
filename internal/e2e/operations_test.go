package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// shutdown is what a session is told that is left when the program ends.
var shutdown = refusal{"57P01", "terminating connection because the proxy is shutting down", "", ""}

// stateHCL keeps the state beside the configuration.
const stateHCL = "state_dir = \"state\"\n"

// launch starts the program with a configuration as it is, log block and all, and its standard error at output, or in a
// pipe if that is nil. It waits for nothing. The rest is as in serve.
func launch(t *testing.T, hcl string, output *terminal) *program {
	t.Helper()
	p := &program{t: t, dir: t.TempDir(), done: make(chan struct{}), more: make(chan struct{})}
	p.write("monitor.password", monitorPassword)
	p.write("pgreplicaproxy.hcl", hcl)
	p.cmd = exec.Command(binary, "serve", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl"))
	p.cmd.Env = cleanEnvironment()
	var log io.Reader
	var err error
	if output != nil {
		p.cmd.Stderr, log = output.program, output.user
	} else if log, err = p.cmd.StderrPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if output != nil {
		_ = output.program.Close() // so that the end of the program is the end of the output
	}
	go p.follow(log)
	t.Cleanup(p.stop)
	return p
}

// logged is the number of log entries so far, for waitLogSince.
func (p *program) logged() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.logs)
}

// waitLogSince is waitLog for entries behind the first so many.
func (p *program) waitLogSince(seen int, message string, attrs map[string]any) map[string]any {
	p.t.Helper()
	var found map[string]any
	p.waitOutput(fmt.Sprintf("%q %v", message, attrs), func() bool {
		for ; seen < len(p.logs); seen++ {
			if entry := p.logs[seen]; entry["msg"] == message && contains(entry, attrs) {
				found = entry
				return true
			}
		}
		return false
	})
	return found
}

// waitText waits until the log holds a text, in whatever format.
func (p *program) waitText(text string) {
	p.t.Helper()
	p.waitOutput(fmt.Sprintf("%q", text), func() bool { return strings.Contains(p.text.String(), text) })
}

// waitOutput waits until done is true, which is asked after every line, under the lock.
func (p *program) waitOutput(what string, done func() bool) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		ok, more := done(), p.more
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-more:
		case <-p.done:
			p.t.Fatalf("the program ended before it logged %s:\n%s", what, p.log())
		case <-timeout:
			p.t.Fatalf("the program never logged %s:\n%s", what, p.log())
		}
	}
}

// waitEnd waits until the program has ended, which must be with exit code 0.
func (p *program) waitEnd() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the program goes on:\n%s", p.log())
	}
	if p.err != nil {
		p.t.Errorf("the program ended with %v, want exit code 0", p.err)
	}
}

// ask returns the first value that a query returns.
func ask(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(testContext(t), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	for _, result := range results {
		if len(result.Rows) > 0 {
			return string(result.Rows[0][0])
		}
	}
	return ""
}

// told returns the error that ends an idle session.
func told(t *testing.T, conn *pgconn.PgConn) *pgconn.PgError {
	t.Helper()
	for {
		_, err := conn.ReceiveMessage(testContext(t))
		var response *pgconn.PgError
		switch {
		case errors.As(err, &response):
			return response
		case err != nil:
			t.Fatalf("session ended with %v, want an error of the protocol", err)
		}
	}
}

// toldInQuery returns the error that ends a query.
func toldInQuery(t *testing.T, ended <-chan error) *pgconn.PgError {
	t.Helper()
	var response *pgconn.PgError
	if err := <-ended; !errors.As(err, &response) {
		t.Fatalf("query ended with %v, want an error of the protocol", err)
	}
	return response
}

// once makes a mark that no query of another test, or of another run of this one, has: PostgreSQL goes on with a query
// whose session is gone.
func once(mark string) string { return mark + "_" + strings.ToLower(rand.Text()[:8]) }

// SIGTERM takes no new client, and lets sessions finish.
func TestDrain(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, "drain_timeout = \"1h\"\n"+listenHCL+clusterHCL(c))
	idle, busy := connect(t, p.dsn("app_replica")), connect(t, p.dsn("app"))
	ask(t, busy, "BEGIN")
	p.signal(syscall.SIGTERM)
	if got := p.waitLog("draining", nil)["sessions"]; got != 2.0 {
		t.Errorf("the log counts %v sessions, want 2", got)
	}
	if conn, err := net.Dial("tcp", p.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("new connection: %v %v, want it refused", conn, err)
	}
	for name, conn := range map[string]*pgconn.PgConn{"idle": idle, "busy": busy} {
		if got := ask(t, conn, "SELECT 'still here'"); got != "still here" {
			t.Errorf("%s session got %q", name, got)
		}
	}
	if err := idle.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	if got := ask(t, busy, "COMMIT; SELECT 'done'"); got != "done" {
		t.Errorf("last query got %q", got)
	}
	if err := busy.Close(testContext(t)); err != nil {
		t.Error(err)
	}
	p.waitEnd()
	p.waitLog("stopped", nil)
}

// Sessions that are left after drain_timeout are told so, wherever they are; psql shows it.
func TestDrainTimeout(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, "drain_timeout = \"300ms\"\n"+listenHCL+clusterHCL(c))
	ctx, primary := testContext(t), c.Servers()[0]

	idle, failed, querying := connect(t, p.dsn("app_replica")), connect(t, p.dsn("app")), connect(t, p.dsn("app"))
	ask(t, failed, "BEGIN")
	checkState(t, <-startQuery(ctx, failed, "SELECT 1/0"), "22012")
	mark := once("drained")
	query := startQuery(ctx, querying, endless(mark))
	waitActive(t, primary, mark)
	libraries := libpqs(t)
	printed := make(chan string, len(libraries))
	for _, libDir := range libraries {
		mark := once("drained")
		go func() {
			_, stderr, _ := psql(t, libDir, p.dsn("app"), "-c", endless(mark))
			printed <- stderr
		}()
		waitActive(t, primary, mark)
	}
	login := p.dialTLS(t) // a client that was asked for its password
	login.say(asApp("app"))
	if _, err := io.ReadFull(login, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	mute, halfway := p.dialRaw(t), p.dialRaw(t) // one that has said nothing, and one before its handshake
	halfway.say(sslRequest)
	if _, err := io.ReadFull(halfway, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}

	p.signal(syscall.SIGTERM)
	shutdown.check(t, told(t, idle))
	shutdown.check(t, told(t, failed))
	shutdown.check(t, toldInQuery(t, query))
	for range libraries {
		if stderr := <-printed; !strings.Contains(stderr, "FATAL:  "+shutdown.message) {
			t.Errorf("psql prints %q, want %q in it", stderr, shutdown.message)
		}
	}
	if rest := string(login.rest()); !strings.Contains(rest, "C57P01\x00M"+shutdown.message) {
		t.Errorf("a client that logs in reads %q, want %q", rest, shutdown.message)
	}
	for _, client := range []*rawClient{mute, halfway} {
		if rest := client.rest(); len(rest) > 0 {
			t.Errorf("a client that had not logged in reads %q", rest)
		}
	}
	p.waitEnd()
	for _, entry := range p.logs {
		if entry["msg"] == "connection refused" && entry["level"] != "DEBUG" {
			t.Errorf("the log blames a client for the shutdown: %v", entry)
		}
	}
}

// A second signal does not wait any more.
func TestSecondSignal(t *testing.T) {
	c := sharedCluster(t, versions[0])
	for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(second.String(), func(t *testing.T) {
			p := serve(t, "drain_timeout = \"1h\"\n"+listenHCL+clusterHCL(c))
			idle, querying := connect(t, p.dsn("app_replica")), connect(t, p.dsn("app"))
			mark := once("second_signal")
			query := startQuery(testContext(t), querying, endless(mark))
			waitActive(t, c.Servers()[0], mark)
			p.signal(syscall.SIGINT)
			p.waitLog("draining", nil)
			p.signal(second)
			shutdown.check(t, told(t, idle))
			shutdown.check(t, toldInQuery(t, query))
			p.waitEnd()
		})
	}
}

// The program can be stopped before it serves: here its only server never answers the first question.
func TestStopAtStart(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	p := launch(t, stateHCL+listenHCL+fmt.Sprintf("cluster \"main\" {\n  monitor {\n    timeout = \"1h\"\n  }\n"+
		"  backend \"db1\" {\n    address = %q\n  }\n}\n", silent.Addr()), nil)
	conn, err := silent.Accept() // the program asks, so it listens to signals by now
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	p.signal(syscall.SIGTERM)
	p.waitEnd()
}

// What cannot be started says why, and what to do.
func TestStartRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	const cluster = "cluster \"main\" {\n  backend \"db1\" {\n    address = \"127.0.0.1:1\"\n  }\n}\n"
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		hcl  string
		code int
		want []string
	}{
		"address in use": {
			fmt.Sprintf("listen {\n  address = %q\n}\n", taken.Addr()) + cluster, 1,
			[]string{"listen on " + taken.Addr().String(), "stop it, or choose another address in the listen block"},
		},
		"address of another machine": {
			"listen {\n  address = \"192.0.2.1:7432\"\n}\n" + cluster, 1, []string{"no interface of this machine has the address"},
		},
		"no socket": {
			fmt.Sprintf("listen {\n  address = %q\n}\n", file) + cluster, 1, []string{"listen on " + file},
		},
		"mistakes": {
			"drain_timeout = 30\nlisen {}\n" + cluster, 2,
			[]string{"on pgreplicaproxy.hcl line 1:", "drain_timeout = 30", "on pgreplicaproxy.hcl line 2, in lisen:", `Did you mean "listen"?`, "is not valid: 2 errors"},
		},
		"no file": {"", 2, []string{"pgreplicaproxy.hcl: no such file or directory", "--config"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.hcl != "" {
				if err := os.WriteFile(filepath.Join(dir, "pgreplicaproxy.hcl"), []byte(test.hcl), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			command{args: []string{"serve"}, dir: dir, env: []string{"STATE_DIRECTORY=" + dir}}.check(t, test.code, nil, test.want)
		})
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file in the way holds %q, %v", content, err)
	}
}

// A socket file that nobody serves is replaced, one that somebody serves is not, and the program removes its own.
func TestUnixSocket(t *testing.T) {
	c := sharedCluster(t, versions[0])
	dir, err := os.MkdirTemp("", "socket-") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, ".s.PGSQL.7432")
	abandoned, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	abandoned.SetUnlinkOnClose(false)
	_ = abandoned.Close()

	hcl := fmt.Sprintf("listen {\n  address = %q\n  tls = \"optional\"\n}\n", path) + clusterHCL(c)
	p := serve(t, hcl)
	dsn := fmt.Sprintf("host=%s port=7432 user=%s password=%s dbname=app", dir, appUser, appPassword)
	if got := query(t, dsn, "SELECT 1"); got != "1" {
		t.Errorf("query got %q", got)
	}
	command{
		args: []string{"serve", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl")},
	}.check(t, 1, nil, []string{"listen on " + path, "another program listens there"})
	if got := query(t, dsn, "SELECT 2"); got != "2" {
		t.Errorf("query got %q", got)
	}
	p.signal(syscall.SIGTERM)
	p.waitEnd()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's file is left: %v", err)
	}
}
