package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admin"
	"github.com/replicon/pgreplicaproxy/policy"
)

// adminProgram is an admin listener for the commands, with the configuration that leads to it.
type adminProgram struct {
	config  admin.Config
	dir     string
	file    string // the configuration
	actions []string
}

const adminTestToken = "0123456789abcdef"

// newAdminProgram writes a configuration; nobody listens before start.
func newAdminProgram(t *testing.T) *adminProgram {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &adminProgram{dir: dir, file: filepath.Join(dir, "pgreplicaproxy.hcl")}
	p.write(t, "pgreplicaproxy.hcl", `state_dir = "."
cluster "main" {
  monitor { password = env("TEST_UNSET_VARIABLE") }
  backend "db1" { address = "127.0.0.1:5432" }
}
`)
	since := time.Now().Add(-90 * time.Second)
	note := func(words ...string) error {
		p.actions = append(p.actions, strings.Join(words, " "))
		if words[len(words)-1] == "db9" {
			return errors.New(`cluster "main" has no backend "db9"`)
		}
		return nil
	}
	p.config = admin.Config{
		Local: true, Token: adminTestToken,
		Sources: admin.Sources{
			Version: "1.2.3", Started: since,
			Snapshots: func() map[string]*backends.Snapshot {
				return map[string]*backends.Snapshot{"main": {States: []backends.State{
					{Target: backends.Target{Name: "db1", Address: "127.0.0.1:5432"}, Status: backends.Down, Detail: "connection refused", Since: since},
					{Target: backends.Target{Name: "db2", Address: "127.0.0.1:5433"}, Role: policy.Primary, Status: backends.Up, Since: since, Timeline: 2},
				}}}
			},
			Sessions: func() []admin.Session {
				return []admin.Session{{
					ID: 7, Client: "10.1.2.3:4567", User: "bob\x1b[2J", Database: "app", Route: "*", Cluster: "main", Backend: "db2",
					State: "active", Since: since, ToServer: 100, ToClient: 5 << 20,
				}}
			},
			Routes: func() []admin.Route { return []admin.Route{{Name: "*", Cluster: "main", Role: "primary"}} },
		},
		Actions: admin.Actions{
			Drain: func(cluster, backend string, drained bool) error {
				return note(map[bool]string{true: "drain", false: "undrain"}[drained], cluster, backend)
			},
			Accept:     func(cluster, backend string) error { return note("accept", cluster, backend) },
			Forget:     func(cluster string) error { return note("forget", cluster) },
			EndSession: func(uint64) error { return note("end") },
			Reload:     func(context.Context) (string, error) { return "all is well", note("reload") },
		},
	}
	return p
}

func (p *adminProgram) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start listens where the program does without an admin block.
func (p *adminProgram) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(p.dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- admin.Serve(ctx, ln, admin.Handler(p.config), nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p.write(t, "admin.token", adminTestToken+"\n")
}

func (p *adminProgram) run(args ...string) string { return outcome(append(args, "-c", p.file)...) }

func TestStatusCommand(t *testing.T) {
	p := newAdminProgram(t)
	p.start(t)
	want := `pgreplicaproxy 1.2.3, up for 1 min, 1 session, 0 logging in

Cluster main  db2 is primary, 0 replicas, 1 server out, 1 session
  SERVER  ADDRESS         ROLE     TIMELINE  LAG  SESSIONS  SINCE  STATE
  db2     127.0.0.1:5433  primary         2              1  1 min  up
  db1     127.0.0.1:5432  unknown                        0  1 min  down: connection refused

  DATABASE ASKED FOR  GOES TO  db2  db1
  *                   primary    1    0
exit code 0
`
	if got := p.run("status"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := p.run("status", "--json"); !strings.Contains(got, `"detail": "connection refused"`) || !strings.HasPrefix(got, "{") {
		t.Errorf("got %s", got)
	}
	if got := p.run("status", "--json", "--watch"); !strings.Contains(got, "exit code 2") {
		t.Errorf("got %s", got)
	}
}

// What a client chose does not steer the terminal.
func TestSessionsCommand(t *testing.T) {
	p := newAdminProgram(t)
	p.start(t)
	want := `ID  CLIENT         USER     DATABASE  SERVER  STATE     FOR     IN     OUT
 7  10.1.2.3:4567  bob␛[2J  app       db2     active  1 min  100 B  5.0 MB
exit code 0
`
	if got := p.run("sessions"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOperatingCommands(t *testing.T) {
	p := newAdminProgram(t)
	p.start(t)
	for _, tc := range []struct {
		args         []string
		want, action string
	}{
		{[]string{"drain", "db1"}, "took db1 out of service\nexit code 0\n", "drain main db1"},
		{[]string{"drain", "--wait", "db1"}, "took db1 out of service\n0 sessions left on db1\nexit code 0\n", "drain main db1"},
		{[]string{"drain", "--cluster", "other", "db1"}, "took db1 out of service\nexit code 0\n", "drain other db1"},
		{[]string{"drain", "db9"}, "pgreplicaproxy: cluster \"main\" has no backend \"db9\"\nexit code 1\n", "drain main db9"},
		{[]string{"undrain", "db1"}, "took db1 back into service\nexit code 0\n", "undrain main db1"},
		{[]string{"accept", "main", "db1"}, "accepted db1 as the primary of cluster main\nexit code 0\n", "accept main db1"},
		{[]string{"forget", "main"}, "forgot the past of cluster main\nexit code 0\n", "forget main"},
		{[]string{"sessions", "end", "7"}, "ended session 7\nexit code 0\n", "end"},
		{[]string{"reload"}, "all is well\nconfiguration reloaded\nexit code 0\n", "reload"},
		{[]string{"sessions", "end", "x"}, "exit code 2", ""},
		{[]string{"drain"}, "exit code 2", ""},
		{[]string{"accept", "main"}, "exit code 2", ""},
	} {
		p.actions = nil
		got := p.run(tc.args...)
		if !strings.HasSuffix(strings.TrimSpace(got), strings.TrimSpace(tc.want)) || strings.Join(p.actions, ",") != tc.action {
			t.Errorf("%q: got %q and did %q; want %q and %q", tc.args, got, p.actions, tc.want, tc.action)
		}
	}
}

// Every way of not reaching the program says what to do.
func TestAdminOutOfReach(t *testing.T) {
	p := newAdminProgram(t)
	for _, command := range [][]string{{"status"}, {"sessions"}} {
		if got := p.run(command...); !strings.Contains(got, "nobody listens at "+p.dir) || !strings.Contains(got, "exit code 1") {
			t.Errorf("%q: got %s", command, got)
		}
	}
	if got := p.run("reload"); !strings.Contains(got, "no token at") || !strings.Contains(got, "exit code 1") {
		t.Errorf("got %s", got)
	}
	p.start(t)
	p.write(t, "admin.token", "another token, of another program")
	if got := p.run("reload"); !strings.Contains(got, "another token") || !strings.Contains(got, "exit code 1") {
		t.Errorf("got %s", got)
	}
	if len(p.actions) > 0 {
		t.Errorf("did %q", p.actions)
	}
}

// The token is made once, for its user alone.
func TestAdminToken(t *testing.T) {
	cfg := &config{StateDir: filepath.Join(t.TempDir(), "state")}
	first, err := adminToken(cfg)
	if err != nil || len(first) < leastToken {
		t.Fatalf("got %q, %v", first, err)
	}
	if again, err := adminToken(cfg); again != first || err != nil {
		t.Errorf("got %q, %v, want %q again", again, err, first)
	}
	info, err := os.Stat(tokenFile(cfg))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	cfg.Admin.Token = "of the configuration"
	if token, err := adminToken(cfg); token != "of the configuration" || err != nil {
		t.Errorf("got %q, %v", token, err)
	}
}

func TestColours(t *testing.T) {
	row := func(text string, c colour) []cell { return []cell{{text: text, colour: c}, {text: "x"}} }
	rows := [][]cell{heading("NAME", "B"), row("a", red), row("longer", plain)}
	got := printer{coloured: true}.table("", rows)
	want := "\x1b[2mNAME\x1b[0m    \x1b[2mB\x1b[0m\n\x1b[31ma\x1b[0m       x\nlonger  x\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
