package pgcluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestOrphans stops a cluster whose postmasters were killed: by us while a child was frozen, and by someone else.
func TestOrphans(t *testing.T) {
	ctx := testContext(t)
	c := start(ctx, t, Config{Installation: installations(t)[0], Standbys: 1})
	db1, db2 := c.Server("db1"), c.Server("db2")
	must(t, db1.Freeze())
	must(t, db1.Kill())
	if len(db1.processes()) == 0 {
		t.Error("frozen children did not outlive their postmaster; the test tests nothing")
	}
	must(t, syscall.Kill(db2.PID(), syscall.SIGKILL))
	must(t, db2.until("await end", func() bool { return !db2.Alive() }))

	var segments []int
	for _, s := range c.Servers() {
		lockFile, err := os.ReadFile(filepath.Join(s.DataDir, postmasterFile))
		must(t, err)
		id, ok := sharedMemoryID(lockFile)
		if !ok || !hasSharedMemory(t, id) {
			t.Fatalf("%s left no shared memory segment behind; the test tests nothing", s.Name)
		}
		segments = append(segments, id)
	}
	must(t, c.Stop(ctx))
	for _, id := range segments {
		if hasSharedMemory(t, id) {
			t.Errorf("shared memory segment %d is left behind", id)
		}
	}
}

// hasSharedMemory tells whether a System V segment exists (proc(5), /proc/sysvipc/shm: the second column is its id).
func hasSharedMemory(t *testing.T, id int) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/sysvipc/shm")
	must(t, err)
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == strconv.Itoa(id) {
			return true
		}
	}
	return false
}

// TestUser: only root may choose as whom the servers run.
func TestUser(t *testing.T) {
	ctx := testContext(t)
	config := Config{Installation: installations(t)[0], User: "nobody"}
	if os.Geteuid() != 0 {
		if _, err := Start(ctx, config); err == nil {
			t.Error("started servers as another user without being root")
		}
		return
	}
	nobody, err := serverAccount(config.User)
	must(t, err)
	var stat syscall.Stat_t
	must(t, syscall.Stat(fmt.Sprintf("/proc/%d", start(ctx, t, config).Server("db1").PID()), &stat))
	if got := int(stat.Uid); got != nobody.uid {
		t.Errorf("the server runs as user %d, want %d", got, nobody.uid)
	}
	config.User = "root"
	if _, err := Start(ctx, config); err == nil {
		t.Error("started servers as root")
	}
}

// dieVariable makes TestDieHard the process that dies.
const dieVariable = "PGCLUSTER_TEST_DIE"

// TestDieHard kills the process that started a cluster. Its servers must end.
func TestDieHard(t *testing.T) {
	if os.Getenv(dieVariable) != "" {
		dieHard(testContext(t), t)
	}
	found := installations(t)[0]
	ownTempDir(t)
	cmd := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestDieHard$")
	cmd.Env = append(os.Environ(), dieVariable+"=1")
	out, err := cmd.Output()
	if err == nil {
		t.Fatal("the process did not die")
	}
	var pids []int
	for scanner := bufio.NewScanner(bytes.NewReader(out)); scanner.Scan(); {
		if pid, err := strconv.Atoi(scanner.Text()); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 2 {
		t.Fatalf("got %q, want two process ids", out)
	}
	for _, pid := range pids {
		err := poll(testContext(t), func() (bool, error) { return procLink(pid, "exe") != found.program("postgres"), nil })
		if err != nil {
			t.Errorf("postmaster %d outlives the process that started it", pid)
		}
	}
}

// dieHard starts a cluster, prints its postmasters, and kills this process.
func dieHard(ctx context.Context, t *testing.T) {
	t.Helper()
	c, err := Start(ctx, Config{Installation: installations(t)[0], Standbys: 1})
	must(t, err)
	for _, s := range c.Servers() {
		fmt.Println(s.PID())
	}
	self, err := os.FindProcess(os.Getpid())
	must(t, err)
	must(t, self.Kill())
	select {}
}
