package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// oddNames need every kind of quoting there is.
const oddNames = `cluster "main" {
  authentication = "relay"
  monitor {
    user     = "we\"ird $role$ \\o'x"
    database = "my \"db\""
    password = "hunter2"
  }
  backend_tls {}
  backend "db1" { address = "/var/run/postgresql" }
  backend "db2" { address = "10.0.0.12" }
  backend "db3" { address = "10.0.0.13" }
}
`

func TestSQLGolden(t *testing.T) {
	setConfigEnvironment(t)
	t.Setenv("PGREPLICAPROXY_MONITOR_PASSWORD", inlinePassword)
	compareGolden(t, "testdata/sql/sample.golden", outcome("sql", "--config", samplePath))
	path := writeTestFile(t, t.TempDir(), "odd.hcl", oddNames, 0o600)
	got := outcome("sql", "main", "--config", path)
	compareGolden(t, "testdata/sql/odd.golden", got)
	if strings.Contains(got, inlinePassword) {
		t.Errorf("shows the password:\n%s", got)
	}
}

func TestSQLChoosesCluster(t *testing.T) {
	setConfigEnvironment(t)
	const two = "testdata/config/everything.hcl"
	for _, test := range []struct {
		args []string
		want string
		code string
	}{
		{[]string{two, "main"}, `ROLE "watcher"`, "exit code 0"},
		{[]string{two, "other"}, `ROLE "pgreplicaproxy"`, "exit code 0"},
		{[]string{two}, `name one of the clusters: "main", "other"`, "exit code 2"},
		{[]string{two, "mian"}, `no cluster is called "mian": the file has "main", "other"`, "exit code 2"},
		{[]string{"testdata/config/durations.hcl"}, "Not a duration", "exit code 2"},
	} {
		got := outcome(append([]string{"sql", "--config"}, test.args...)...)
		if !strings.Contains(got, test.want) || !strings.Contains(got, test.code) {
			t.Errorf("%v: got %s, want %q and %q", test.args, got, test.want, test.code)
		}
	}
}

// TestSQLNeedsNoSecret runs where the variable with the password is not set.
func TestSQLNeedsNoSecret(t *testing.T) {
	setConfigEnvironment(t)
	if err := os.Unsetenv("PGREPLICAPROXY_MONITOR_PASSWORD"); err != nil { // t.Setenv restores it
		t.Fatal(err)
	}
	if got := outcome("sql", "--config", samplePath); !strings.HasSuffix(got, "exit code 0\n") {
		t.Errorf("got %s", got)
	}
}

// TestSQLRuns runs the scripts on every PostgreSQL there is, twice, and looks at the roles.
func TestSQLRuns(t *testing.T) {
	setConfigEnvironment(t)
	scripts := []string{samplePath, filepath.Join(t.TempDir(), "odd.hcl")}
	if err := os.WriteFile(scripts[1], []byte(oddNames), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, path := range scripts {
		sql, ok := strings.CutSuffix(outcome("sql", "--config", path), "exit code 0\n")
		if !ok {
			t.Fatal(sql)
		}
		scripts[i] = sql
	}
	for _, installation := range sqlInstallations(t) {
		t.Run(fmt.Sprint(installation.Version), func(t *testing.T) { runScripts(t, installation, scripts) })
	}
}

// sqlInstallations returns the server programs to test with.
func sqlInstallations(t *testing.T) []pgcluster.Installation {
	t.Helper()
	var dirs []string
	if dir := os.Getenv("PGREPLICAPROXY_NPM_PG"); dir != "" {
		dirs = append(dirs, dir)
	}
	found := pgcluster.All(dirs...)
	switch {
	case len(found) > 0 && !testing.Short():
	case os.Getenv("PGREPLICAPROXY_E2E") == "1":
		t.Fatal("PGREPLICAPROXY_E2E=1 wants this test, and there are no PostgreSQL server programs, or -short is set")
	default:
		t.Skip("no PostgreSQL server programs, or -short is set")
	}
	return found
}

func runScripts(t *testing.T, installation pgcluster.Installation, scripts []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cluster, err := pgcluster.Start(ctx, pgcluster.Config{Installation: installation})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cluster.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	server := cluster.Servers()[0]
	if err := server.Exec(ctx, "postgres", `CREATE DATABASE "my ""db"""`); err != nil {
		t.Fatal(err)
	}
	for _, sql := range append(scripts, scripts...) {
		if err := server.Exec(ctx, "postgres", strings.TrimSpace(sql)); err != nil {
			t.Errorf("%v\n%s", err, sql)
		}
	}
	got, err := server.QueryString(ctx, "postgres", `
SELECT string_agg(r.rolname, ', ' ORDER BY r.rolname)
FROM pg_auth_members JOIN pg_roles r ON r.oid = member JOIN pg_roles g ON g.oid = roleid
WHERE g.rolname = 'pg_monitor' AND r.rolcanlogin AND NOT r.rolsuper`)
	if want := `pgreplicaproxy, we"ird $role$ \o'x`; err != nil || got != want {
		t.Errorf("got roles %q, %v, want %q", got, err, want)
	}
}
