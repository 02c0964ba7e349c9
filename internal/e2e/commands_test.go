package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// command is one run of the program that is to end by itself.
type command struct {
	args []string
	// dir is the working directory, empty for that of the test.
	dir string
	// env is added to the environment.
	env   []string
	stdin string
}

// run returns what the program prints, and its exit code.
func (c command) run(t *testing.T) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), binary, c.args...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.dir, cleanEnvironment(c.env...), strings.NewReader(c.stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// check compares the exit code, and looks for fragments in what is printed; where none is named, nothing may be.
func (c command) check(t *testing.T, code int, stdout, stderr []string) (printed string) {
	t.Helper()
	out, errs, got := c.run(t)
	if got != code {
		t.Errorf("%q: exit code %d, want %d", c.args, got, code)
	}
	for _, stream := range []struct {
		name, got string
		want      []string
	}{{"stdout", out, stdout}, {"stderr", errs, stderr}} {
		if len(stream.want) == 0 && stream.got != "" {
			t.Errorf("%q: %s is %q, want it empty", c.args, stream.name, stream.got)
		}
		for _, fragment := range stream.want {
			if !strings.Contains(stream.got, fragment) {
				t.Errorf("%q: %s is %q, want %q in it", c.args, stream.name, stream.got, fragment)
			}
		}
	}
	return out
}

// The command line, right and wrong.
func TestCommandLine(t *testing.T) {
	commands := []string{"Usage:", "serve", "check", "fmt", "demo", "ca", "sql", "version", "--config"}
	advice := `Run "pgreplicaproxy help" for the commands.`
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr []string
	}{
		{"", 0, commands, nil},
		{"help", 0, commands, nil},
		{"--help", 0, commands, nil},
		{"help serve", 0, []string{"SIGHUP", "--config"}, nil},
		{"demo --help", 0, []string{"--port", "--standbys"}, nil},
		{"version", 0, []string{"pgreplicaproxy ", "linux/"}, nil},
		{"serv", 2, nil, []string{`unknown command "serv"`, advice}},
		{"--verbose", 2, nil, []string{"unknown flag: --verbose", advice}},
		{"serve --port 5432", 2, nil, []string{"unknown flag: --port", advice}},
		{"serve now", 2, nil, []string{`"now"`, advice}},
		{"check --config", 2, nil, []string{"flag needs an argument", advice}},
		{"demo --port many", 2, nil, []string{`"many"`, advice}},
		{"version --config absent.hcl", 0, []string{"pgreplicaproxy "}, nil}, // needs no file
	} {
		command{args: strings.Fields(test.args)}.check(t, test.code, test.stdout, test.stderr)
	}
}

// The sample file is as it should be: with the password it asks for it is valid, and laid out.
func TestSampleFile(t *testing.T) {
	dir := t.TempDir()
	sample, err := os.ReadFile("../../pgreplicaproxy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "pgreplicaproxy.hcl")
	if err := os.WriteFile(file, sample, 0o640); err != nil {
		t.Fatal(err)
	}
	const variable = "PGREPLICAPROXY_MONITOR_PASSWORD"
	t.Setenv(variable, "") // so that it is restored
	if err := os.Unsetenv(variable); err != nil {
		t.Fatal(err)
	}
	valid := []string{"pgreplicaproxy.hcl is valid: 1 listener, 1 cluster, 2 servers, 2 routes"}
	command{args: []string{"check"}, dir: dir, env: []string{variable + "=secret"}}.check(t, 0, valid, nil)
	command{args: []string{"check", "-c", file}, env: []string{variable + "=secret"}}.check(t, 0, valid, nil)
	command{args: []string{"check"}, dir: dir}.check(t, 2, nil, []string{"pgreplicaproxy.hcl line ", variable + " is not set", "1 error"})
	command{args: []string{"fmt", "--check"}, dir: dir}.check(t, 0, nil, nil)

	crooked := append([]byte("  state_dir=\"state\"\n"), sample...)
	if err := os.WriteFile(file, crooked, 0o640); err != nil {
		t.Fatal(err)
	}
	command{args: []string{"fmt", "--check"}, dir: dir}.check(t, 1, []string{"pgreplicaproxy.hcl\n"}, []string{"not in canonical layout"})
	command{args: []string{"fmt"}, dir: dir}.check(t, 0, []string{"pgreplicaproxy.hcl\n"}, nil)
	command{args: []string{"fmt", "--check"}, dir: dir}.check(t, 0, nil, nil)
	got, err := os.ReadFile(file)
	if want := "state_dir = \"state\"\n" + string(sample); err != nil || string(got) != want {
		t.Errorf("fmt wrote %q, %v", got, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 {
		t.Errorf("after fmt the file is %v, %v, want mode 0640", info.Mode(), err)
	}
	command{args: []string{"fmt", "-"}, stdin: string(crooked)}.check(t, 0, []string{"state_dir = \"state\"\n"}, nil)
}

// What `sql` prints is what a server needs: after it, and a password, the monitor can do its work. It is run twice, for
// a role and a database whose names need every kind of quoting.
func TestSQL(t *testing.T) {
	const role, database = `watch "er's" \$role$`, `watched 'by' "it" \`
	for _, version := range versions {
		c := sharedCluster(t, version)
		primary := c.Servers()[0]
		quote := func(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
		if err := primary.Exec(testContext(t), "postgres", "CREATE DATABASE "+quote(database)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			onAll(t, c, "DROP DATABASE "+quote(database))
			onAll(t, c, "DROP ROLE "+quote(role))
		})
		hcl := strings.Replace(clusterHCL(c), "monitor {\n",
			"monitor {\n    user = \"watch \\\"er's\\\" \\\\$role$\"\n    database = \"watched 'by' \\\"it\\\" \\\\\"\n", 1)
		dir := t.TempDir()
		config := filepath.Join(dir, "pgreplicaproxy.hcl") // without the password's file, which sql does not need
		if err := os.WriteFile(config, []byte(hcl), 0o600); err != nil {
			t.Fatal(err)
		}
		script := filepath.Join(dir, "monitor.sql")
		printed := command{args: []string{"sql", "-c", config}}.check(t, 0, []string{"CREATE ROLE"}, nil)
		if err := os.WriteFile(script, []byte(printed), 0o600); err != nil {
			t.Fatal(err)
		}
		superuser := "host=" + primary.SocketDir + " port=" + strings.Split(serverAddress(primary), ":")[1] + " user=postgres dbname=postgres"
		for range 2 {
			if out, stderr, err := psql(t, "", superuser, "-f", script); err != nil || out != "" {
				t.Fatalf("psql -f: %v\n%s%s\n%s", err, out, stderr, printed)
			}
		}
		if err := primary.Exec(testContext(t), "postgres", "ALTER ROLE "+quote(role)+" PASSWORD '"+monitorPassword+"'"); err != nil {
			t.Fatal(err)
		}
		waitStandbys(t, c)
		p := serve(t, listenHCL+hcl)
		for i, server := range c.Servers() {
			p.waitLog("server changed", changed(server.Name, []string{"primary", "replica"}[min(i, 1)], "up"))
		}
		query(t, p.dsn("app"), "SELECT 1")
	}
}
