package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// demonstration is a run of `pgreplicaproxy demo`, with a directory for temporary files of its own.
type demonstration struct {
	*program
	temporary string
	output    io.Closer // the reading end
}

// startDemo starts the demo as a user, or as this process's, in a process group of its own, as a shell does.
func startDemo(t *testing.T, as *syscall.Credential, args ...string) demonstration {
	t.Helper()
	installation(t, 0)
	dir, err := os.MkdirTemp("", "demo-") // unlike t.TempDir, others may enter it: the servers run as another user
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := demonstration{temporary: filepath.Join(dir, "tmp")}
	d.program = &program{t: t, dir: dir, done: make(chan struct{}), more: make(chan struct{})}
	executable := filepath.Join(dir, "pgreplicaproxy")
	content, err := os.ReadFile(binary)
	err = errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(executable, content, 0o755), os.Mkdir(d.temporary, 0o755))
	if as != nil {
		err = errors.Join(err, os.Chown(d.temporary, int(as.Uid), int(as.Gid)))
	}
	if err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(executable, append([]string{"demo"}, args...)...)
	d.cmd.Dir, d.cmd.Env = dir, cleanEnvironment("TMPDIR="+d.temporary, "HOME=/nonexistent")
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as}
	output, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = d.cmd.Stdout
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.output = output
	go d.follow(output)
	t.Cleanup(d.stop)
	return d
}

// started is the last line of what the demo prints before it serves.
const started = "Ctrl-C stops everything and leaves nothing behind."

// interrupt sends what a terminal sends at Ctrl-C, to the whole process group.
func (d demonstration) interrupt() {
	d.t.Helper()
	if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGINT); err != nil {
		d.t.Fatal(err)
	}
}

// checkGone waits for the end, and looks for what may have been left behind.
func (d demonstration) checkGone() {
	d.t.Helper()
	d.waitEnd()
	entries, err := os.ReadDir(d.temporary)
	if err != nil || len(entries) > 0 {
		d.t.Errorf("the demo left %v behind, %v", entries, err)
	}
	if left := processesIn(d.temporary); len(left) > 0 {
		d.t.Errorf("the demo left processes behind: %v", left)
	}
}

// processesIn lists the processes that work below a directory, as each process of a server does in its data directory.
func processesIn(dir string) (list []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir) {
			list = append(list, filepath.Dir(link)+" in "+cwd)
		}
	}
	return list
}

var psqlLine = regexp.MustCompile(`(?m)^  (psql '.*)$`)

// check does what the demo tells a visitor to do: it runs the printed lines as they are.
func (d demonstration) check(visitor *syscall.Credential) {
	d.t.Helper()
	lines := psqlLine.FindAllStringSubmatch(d.log(), -1)
	if len(lines) != 3 {
		d.t.Fatalf("the demo prints %d lines for psql, want 3:\n%s", len(lines), d.log())
	}
	const standby = "SELECT pg_is_in_recovery() AS standby;"
	for i, test := range []struct{ stdin, want string }{
		{standby, `(?m)^ f$`},
		{standby + "\n\\conninfo", `(?m)^ t$`},
		{"", `(?m)^ +[0-9]+ \| t$`},
	} {
		cmd := exec.CommandContext(testContext(d.t), "sh", "-c", lines[i][1])
		cmd.Env, cmd.Dir, cmd.Stdin = cleanEnvironment("HOME=/nonexistent"), "/", strings.NewReader(test.stdin)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: visitor}
		out, err := cmd.CombinedOutput()
		if err != nil || !regexp.MustCompile(test.want).Match(out) {
			d.t.Errorf("%s: %v\n%s", lines[i][1], err, out)
		}
	}
}

// credential is that of a user without privileges, where this process can become one.
func credential(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	found, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// The demo as it is first met, whoever starts it, and whoever types what it prints: the lines work, though the port is
// taken, and Ctrl-C leaves nothing behind, not even with sessions open.
func TestDemo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:7432")
	if err == nil { // else somebody else has it
		defer func() { _ = taken.Close() }()
	}
	starters := map[string]*syscall.Credential{"this user": nil}
	if os.Geteuid() == 0 {
		starters["another user"] = credential(t, "nobody")
	}
	for name, starter := range starters {
		t.Run(name, func(t *testing.T) {
			d := startDemo(t, starter)
			d.waitText(started)
			d.check(credential(t, "nobody"))
			dsn := regexp.MustCompile(`(?m)^  (postgresql://.*/app\?.*)$`).FindStringSubmatch(d.log())
			if dsn == nil {
				t.Fatalf("the demo prints no DSN:\n%s", d.log())
			}
			session := connect(t, dsn[1])
			ask(t, session, "CREATE TABLE visits (); SELECT 1")
			d.interrupt()
			shutdown.check(t, told(t, session))
			d.checkGone()
		})
	}
}

// The demo serves where it is told to, with as many standbys as wanted, and none at all.
func TestDemoOptions(t *testing.T) {
	free := closedAddress(t)
	_, port, _ := net.SplitHostPort(free)
	d := startDemo(t, nil, "--port", port, "--standbys", "0")
	d.waitText(started)
	if n := strings.Count(d.log(), "@"+free+"/app"); n == 0 {
		t.Errorf("the demo does not serve at %s:\n%s", free, d.log())
	}
	conn, err := net.Dial("tcp", free)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	d.interrupt()
	d.checkGone()

	for name, test := range map[string]struct {
		args   []string
		env    string
		code   int
		stderr string
	}{
		"bad usage":     {[]string{"demo", "--standbys", "-1"}, "", 2, "-1"},
		"no PostgreSQL": {[]string{"demo"}, "PGREPLICAPROXY_PG_BIN=/nonexistent", 1, "PostgreSQL server programs not found"},
	} {
		temporary := t.TempDir()
		_, stderr, code := command{args: test.args, env: []string{"TMPDIR=" + temporary, test.env}}.run(t)
		if code != test.code || !strings.Contains(stderr, test.stderr) {
			t.Errorf("%s: exit code %d, %q; want %d and %q in it", name, code, stderr, test.code, test.stderr)
		}
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left, %v", name, left, err)
		}
	}
}

// Ctrl-C works from the first moment on, and so does a second one while the first is being obeyed.
func TestDemoInterruptedAtStart(t *testing.T) {
	for _, step := range []string{"initdb", "cloning db2", "starting primary", "starting db3", "creating role"} {
		t.Run(step, func(t *testing.T) {
			d := startDemo(t, nil)
			d.waitText("... " + step)
			d.interrupt()
			d.checkGone()
		})
	}
	t.Run("twice", func(t *testing.T) {
		d := startDemo(t, nil)
		d.waitText(started)
		d.interrupt()
		d.waitText("stopping PostgreSQL")
		d.interrupt()
		d.checkGone()
	})
}

// Whoever closes the terminal leaves no servers behind either, nor does Ctrl-C in "demo | tee log", at which tee is gone
// before the demo has printed its last line.
func TestDemoAbandoned(t *testing.T) {
	t.Run("terminal closed", func(t *testing.T) {
		d := startDemo(t, nil)
		d.waitText(started)
		if err := syscall.Kill(-d.cmd.Process.Pid, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.checkGone()
	})
	t.Run("reader gone", func(t *testing.T) {
		d := startDemo(t, nil)
		d.waitText(started)
		if err := d.output.Close(); err != nil {
			t.Fatal(err)
		}
		d.interrupt()
		d.checkGone()
	})
}

// demo failover does to the running demo what it says, and the proxy follows: what a visitor watches.
func TestDemoFailover(t *testing.T) {
	d := startDemo(t, nil, "--port", "0")
	d.waitText(started)
	run := func() (string, int) {
		out, errs, code := command{args: []string{"demo", "failover"}, env: []string{"TMPDIR=" + d.temporary}}.run(t)
		return out + errs, code
	}
	for i, want := range []string{"done: db2 is the primary", "done: db1 is the primary"} {
		if got, code := run(); code != 0 || !strings.Contains(got, want) {
			t.Fatalf("failover %d: exit code %d, want %q in %s", i, code, want, got)
		}
	}
	page := regexp.MustCompile(`Status page: (http://\S+)`).FindStringSubmatch(d.log())
	if page == nil {
		t.Fatalf("no address of a status page:\n%s", d.log())
	}
	for deadline := time.Now().Add(patience); ; {
		got := get(t, page[1])
		if strings.Contains(got, "db1 is primary") && strings.Contains(got, `data-label="Timeline" class="n">3<`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the page does not tell of the failovers:\n%s", got)
		}
	}
	d.interrupt()
	d.checkGone()
	if got, code := run(); code != 1 || !strings.Contains(got, "no demo is running") {
		t.Errorf("without a demo: exit code %d: %s", code, got)
	}
}
