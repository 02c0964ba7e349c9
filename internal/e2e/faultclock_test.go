//go:build chaos

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// buildRestless builds the program with a clock that jumps: every two seconds the time of day is the true one, an hour ahead,
// an hour behind, and the true one again. Nobody may set the clock of this machine for a test, so it is the package time that
// is changed, where it reads it.
func buildRestless(t *testing.T) (path string) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), now) != 1 {
		t.Fatalf("%s does not hold what is to be changed", file)
	}
	changed := strings.Replace(string(source), now, now+"\tsec += [...]int64{0, 3600, -3600, 0}[mono>>31&3]\n", 1)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: tempFile(t, "time.go", []byte(changed))}})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "pgreplicaproxy")
	build := exec.Command("go", "build", "-overlay", tempFile(t, "overlay.json", overlay), "-o", path, "../../cmd/pgreplicaproxy")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// The time of day jumps by hours, both ways, again and again. Nothing that the program does depends on it: no session ends, no
// login fails, no server changes, no standby seems to lag.
func TestFault27Clock(t *testing.T) {
	restless := buildRestless(t)
	steady := binary
	binary = restless
	defer func() { binary = steady }()
	r := startFault(t, faultSetup{lines: []string{"max_lag = \"1s\"", "hold_primary = \"10s\""}})
	at, seen := r.load.now(), r.p.logged()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		r.wantLogin("app")
		for _, s := range []*pgcluster.Server{r.db2, r.db3} {
			_ = sessionOn(t, r.p, "app_replica", s).Close(testContext(t))
		}
	}
	for _, s := range r.c.Servers() {
		for _, entry := range r.p.changes(seen, s.Name) {
			t.Errorf("the log says %v", entry)
		}
		for _, ended := range r.load.endings(s, at) {
			t.Errorf("a %s session on %s ended: %v", ended.kind, s.Name, ended.err)
		}
	}
	for kind := range loadMix {
		r.wantNoRefusal(kind)
	}
	r.finish(r.db1)
}
