package pgcluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// npmVariable names the environment variable with the directory of an npm build of the server programs.
const npmVariable = "PGREPLICAPROXY_NPM_PG"

// testContext bounds a whole test, generously.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// installations returns what is installed, newest first, each major version once.
func installations(t *testing.T) []Installation {
	t.Helper()
	if err := checkSupported(); err != nil {
		skip(t, err.Error())
	}
	var dirs []string
	if dir := os.Getenv(npmVariable); dir != "" {
		dirs = append(dirs, dir)
	}
	var found []Installation
	for _, one := range All(dirs...) {
		if one.Version >= oldestVersion && (len(found) == 0 || found[len(found)-1].Version != one.Version) {
			found = append(found, one)
		}
	}
	if len(found) == 0 {
		skip(t, "no PostgreSQL server programs")
	}
	return found
}

// skip skips a test, or fails it where PGREPLICAPROXY_E2E=1 demands that all run.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// eachVersion runs a test once for every installed major version.
func eachVersion(t *testing.T, test func(t *testing.T, found Installation)) {
	t.Helper()
	for _, found := range installations(t) {
		t.Run(fmt.Sprint(found.Version), func(t *testing.T) { test(t, found) })
	}
}

// start starts a cluster that is stopped at the end of the test, when nothing may be left of it.
func start(ctx context.Context, t *testing.T, config Config) *Cluster {
	t.Helper()
	temp := ownTempDir(t)
	c, err := Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopAndCheck(t, c, temp) })
	return c
}

// ownTempDir makes an empty directory the one for temporary files during this test. That of t.TempDir would
// keep the user out whom the servers run as.
func ownTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	return dir
}

// stopAndCheck stops the cluster and looks for what it leaves in temp or running.
func stopAndCheck(t *testing.T, c *Cluster, temp string) {
	t.Helper()
	if err := c.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	checkEmpty(t, temp)
	for _, s := range c.Servers() {
		if s.Alive() {
			t.Errorf("%s is alive after Stop", s.Name)
		}
		if left := s.processes(); len(left) > 0 {
			t.Errorf("processes of %s after Stop: %v", s.Name, left)
		}
	}
}

// checkEmpty reports everything in dir.
func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// ask returns the answer to a query, or ends the test.
func ask(ctx context.Context, t *testing.T, s *Server, sql string) string {
	t.Helper()
	answer, err := s.QueryString(ctx, "postgres", sql)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
