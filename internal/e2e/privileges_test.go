package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// processStatus returns a line of /proc/PID/status.
func processStatus(t *testing.T, pid int, name string) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("no %s in %s", name, status)
	return ""
}

// Whoever starts it, the program cannot be dumped nor gain privileges; from root it becomes another user, keeps none of root's
// capabilities, and goes on serving. The release's build has no cgo, so the one of this test has none either.
func TestPrivileges(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the user has a directory below it
		t.Fatal(err)
	}
	release := filepath.Join(dir, "pgreplicaproxy")
	build := exec.Command("go", "build", "-o", release, "../../cmd/pgreplicaproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	shared := binary
	binary = release
	defer func() { binary = shared }()

	c := sharedCluster(t, versions[0])
	hcl := listenHCL + clusterHCL(c)
	wantUID := fmt.Sprint(os.Geteuid())
	if os.Geteuid() == 0 {
		hcl = "user = \"nobody\"\n" + hcl
		wantUID = "65534"
	}
	p := serve(t, hcl)
	pid := p.cmd.Process.Pid
	for name, want := range map[string]string{
		"Uid":        strings.Join([]string{wantUID, wantUID, wantUID, wantUID}, " "),
		"NoNewPrivs": "1",
		"CapPrm":     "0000000000000000",
		"CapEff":     "0000000000000000",
		"CapAmb":     "0000000000000000",
	} {
		if got := processStatus(t, pid, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := processStatus(t, pid, "Groups"); os.Geteuid() == 0 && strings.Contains(" "+got+" ", " 0 ") {
		t.Errorf("Groups are %q, with root's", got)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, file := range threads {
		status, err := os.ReadFile(file)
		if err == nil && !strings.Contains(string(status), "NoNewPrivs:\t1") { // a thread may end meanwhile
			t.Errorf("%s lacks NoNewPrivs", file)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil || !strings.Contains(string(limits), "Max core file size        0                    0") {
		t.Errorf("core dumps are not forbidden: %v\n%s", err, limits)
	}
	// The kernel gives the files of a process that must not be dumped to root.
	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the process can be dumped: %v, %v", info.Sys(), err)
	}
	connect(t, p.dsn("app", "sslmode=require"))
	for _, name := range []string{"pgreplicaproxy.hcl", "monitor.password"} {
		if err := os.Chmod(filepath.Join(p.dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.signal(syscall.SIGHUP)
	p.waitLog("configuration reloaded", nil)
	connect(t, p.dsn("app", "sslmode=require"))
}

// A user that the program cannot become ends its start, before anything is served.
func TestPrivilegesRefused(t *testing.T) {
	c := sharedCluster(t, versions[0])
	dir := t.TempDir()
	for name, content := range map[string]string{
		"pgreplicaproxy.hcl": "user = \"no-such-user\"\nstate_dir = \"state\"\n" + listenHCL + clusterHCL(c), "monitor.password": monitorPassword,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(binary, "serve", "--config", filepath.Join(dir, "pgreplicaproxy.hcl")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `user = "no-such-user"`) {
		t.Errorf("got %v:\n%s", err, out)
	}
}
