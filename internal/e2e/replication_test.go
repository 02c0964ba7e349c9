package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// Routes for replication connections beside the default ones.
const (
	defaultRoutesHCL      = "route {\n  database_suffix = \"_replica\"\n  role = \"replica\"\n}\nroute {}\n"
	primaryReplicationHCL = "route {\n  replication = true\n  role = \"primary\"\n}\n"
	replicaReplicationHCL = "route {\n  replication = true\n  role = \"replica\"\n}\n"
)

// pgTool returns the path of a program of the oldest server, whose version the programs for replication have.
func pgTool(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(installation(t, versions[0]).BinDir, name)
}

// Nobody replicates who was not given a route for it, and every client says why.
func TestReplicationRefused(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+clusterHCL(c))
	const (
		message = `no route takes replication connections for database "%s" as user "app"`
		hint    = "A route block with replication = true in the proxy's configuration would allow it."
	)
	for value, database := range map[string]string{"database": "app", "true": "app", "on": "app_replica", "1": "app"} {
		config, err := pgconn.ParseConfig(p.dsn(database))
		if err != nil {
			t.Fatal(err)
		}
		config.RuntimeParams["replication"] = value
		_, err = pgconn.ConnectConfig(testContext(t), config)
		checkState(t, err, "28000")
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf(message, database)) {
			t.Errorf("replication=%s: error is %v", value, err)
		}
	}
	for name, args := range map[string][]string{
		"psql":           {"-X", "-c", "IDENTIFY_SYSTEM", "-d", p.dsn("app", "replication=database")},
		"pg_basebackup":  {"-D", filepath.Join(t.TempDir(), "backup"), "-d", p.dsn("app")},
		"pg_receivewal":  {"-n", "-D", t.TempDir(), "-d", p.dsn("app")},
		"pg_recvlogical": {"--create-slot", "-S", "refused", "-d", p.dsn("app")},
	} {
		stderr, err := tool(testContext(t), pgTool(t, name), args...)
		if err == nil || !strings.Contains(stderr, "no route takes replication connections") || !strings.Contains(stderr, hint) {
			t.Errorf("%s: %v: %s", name, err, stderr)
		}
	}
	// A value that means no is none; the route for replication takes no other sessions.
	if got := query(t, p.dsn("app", "replication=off"), "SELECT 'served'"); got != "served" {
		t.Errorf("replication=off: %q", got)
	}
	only := serve(t, listenHCL+clusterHCL(c)+primaryReplicationHCL)
	if _, stderr, err := psql(t, "", only.dsn("app"), "-c", "SELECT 1"); err == nil || !strings.Contains(stderr, `no route takes database "app"`) {
		t.Errorf("a route for replication took a session: %v: %s", err, stderr)
	}
}

// A base backup comes by way of the program, with the WAL that a second connection streams meanwhile, from the primary
// or from a standby, whichever the route names, and is sound.
func TestBaseBackup(t *testing.T) {
	for name, route := range map[string]string{"primary": primaryReplicationHCL, "standby": replicaReplicationHCL} {
		for _, leg := range legs {
			t.Run(name+"/"+leg.name, func(t *testing.T) {
				c := sharedCluster(t, versions[0])
				f := front{serve(t, listenHCL+clusterHCL(c, leg.hcl(t)...)+defaultRoutesHCL+route), c}
				backup := filepath.Join(t.TempDir(), "backup")
				runTool(t, pgTool(t, "pg_basebackup"), "-X", "stream", "-c", "fast", "--no-sync", "-D", backup, "-d", f.dsn("app"))
				runTool(t, pgTool(t, "pg_verifybackup"), backup)
				label, err := os.ReadFile(filepath.Join(backup, "backup_label"))
				if want := "BACKUP FROM: " + name; err != nil || !strings.Contains(string(label), want) {
					t.Errorf("label of the backup is %q, %v, want %q in it", label, err, want)
				}
			})
		}
	}
}

// background is a program of PostgreSQL that runs until it is told to stop.
type background struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr strings.Builder
	lines  *bufio.Scanner // of its standard output
}

func startTool(t *testing.T, name string, args ...string) *background {
	t.Helper()
	b := &background{t: t, cmd: exec.CommandContext(testContext(t), pgTool(t, name), args...)}
	b.cmd.Env, b.cmd.Stderr = cleanEnvironment("PGCONNECT_TIMEOUT=30"), &b.stderr
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.lines = bufio.NewScanner(stdout)
	b.lines.Buffer(nil, 1<<20)
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return b
}

// interrupt ends the program as Ctrl-C does: it then takes leave of the server, and says so by its exit status.
func (b *background) interrupt() {
	b.t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGINT); err != nil {
		b.t.Fatal(err)
	}
	if err := b.cmd.Wait(); err != nil {
		b.t.Errorf("%s: %v: %s", filepath.Base(b.cmd.Path), err, b.stderr.String())
	}
}

// WAL streams by way of the program, and the stream is ended in the protocol's way: CopyDone from both sides.
func TestReceiveWAL(t *testing.T) {
	for _, leg := range legs {
		t.Run(leg.name, func(t *testing.T) {
			c := sharedCluster(t, versions[0])
			f := front{serve(t, listenHCL+clusterHCL(c, leg.hcl(t)...)+defaultRoutesHCL+primaryReplicationHCL), c}
			dir, primary := t.TempDir(), c.Servers()[0]
			receiver := startTool(t, "pg_receivewal", "-n", "-v", "-D", dir, "-d", f.dsn("app", "application_name=receivewal"))
			waitTrue(t, primary, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = 'receivewal' AND state = 'streaming')")
			if err := primary.Exec(testContext(t), "app", "CREATE TABLE filler AS SELECT generate_series(1, 1000); DROP TABLE filler"); err != nil {
				t.Fatal(err)
			}
			segment, err := primary.QueryString(testContext(t), "postgres", "SELECT pg_walfile_name(pg_switch_wal())")
			if err != nil {
				t.Fatal(err)
			}
			for ctx := testContext(t); ; time.Sleep(10 * time.Millisecond) {
				if _, err := os.Stat(filepath.Join(dir, segment)); err == nil { // its name once it is complete
					break
				}
				if ctx.Err() != nil {
					t.Fatalf("segment never came: %s", receiver.stderr.String())
				}
			}
			receiver.interrupt()
			f.waitLog("session closed", map[string]any{"level": "DEBUG"}) // nothing failed
			got, err := os.ReadFile(filepath.Join(dir, segment))
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(primary.DataDir, "pg_wal", segment))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("segment of %d bytes differs from the server's of %d", len(got), len(want))
			}
		})
	}
}

// Changes stream from a logical slot by way of the program while they happen.
func TestLogicalReplication(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Settings: map[string]string{"wal_level": "logical"}})
	p := serve(t, listenHCL+clusterHCL(c)+defaultRoutesHCL+primaryReplicationHCL)
	query(t, p.dsn("app"), "CREATE TABLE events (n int PRIMARY KEY, body text)")
	slot := []string{"-S", "tests", "-d", p.dsn("app")}
	runTool(t, pgTool(t, "pg_recvlogical"), append(slot, "--create-slot", "-P", "test_decoding")...)
	receiver := startTool(t, "pg_recvlogical", append(slot, "--start", "-f", "-", "-o", "include-xids=0")...)
	waitTrue(t, c.Servers()[0], "SELECT active FROM pg_replication_slots WHERE slot_name = 'tests'")
	body := strings.Repeat("ünï 🐘 ", 5000)
	for i, change := range []struct{ sql, want string }{
		{"INSERT INTO events VALUES (1, '" + body + "')", "table public.events: INSERT: n[integer]:1 body[text]:'" + body + "'"},
		{"UPDATE events SET body = 'new'", "table public.events: UPDATE: n[integer]:1 body[text]:'new'"},
		{"DELETE FROM events", "table public.events: DELETE: n[integer]:1"},
	} {
		query(t, p.dsn("app"), change.sql)
		for _, want := range []string{"BEGIN", change.want, "COMMIT"} {
			if !receiver.lines.Scan() {
				t.Fatalf("change %d: output ended: %v: %s", i, receiver.lines.Err(), receiver.stderr.String())
			}
			if got := receiver.lines.Text(); got != want {
				t.Errorf("change %d: got %.200q, want %.200q", i, got, want)
			}
		}
	}
	receiver.interrupt()
	runTool(t, pgTool(t, "pg_recvlogical"), append(slot, "--drop-slot")...)
}

// A standby streams from the primary by way of the program, and serves sessions that come by way of it too.
func TestStandbyBehindTheProgram(t *testing.T) {
	ctx := testContext(t)
	c := startCluster(t, pgcluster.Config{Standbys: 1})
	p := serve(t, listenHCL+clusterHCL(c)+defaultRoutesHCL+primaryReplicationHCL)
	host, port, _ := strings.Cut(p.addr, ":")
	primary, standby := c.Servers()[0], c.Servers()[1]
	if err := standby.Exec(ctx, "postgres", fmt.Sprintf("ALTER SYSTEM SET primary_conninfo = 'host=%s port=%s user=%s password=%s "+
		"application_name=behind sslmode=require'", host, port, pgcluster.ReplicationName, c.ReplicationPassword)); err != nil {
		t.Fatal(err)
	}
	if err := standby.Reload(); err != nil {
		t.Fatal(err)
	}
	waitTrue(t, standby, "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = "+port+")")
	query(t, p.dsn("app"), "CREATE TABLE streamed AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i")
	if err := standby.WaitReplay(ctx, primary); err != nil {
		t.Fatal(err)
	}
	const sum = "SELECT count(*) || ' ' || md5(string_agg(s::text, '' ORDER BY i)) FROM streamed s"
	if got, want := query(t, p.dsn("app_replica"), sum), query(t, p.dsn("app"), sum); got != want {
		t.Errorf("standby has %q, want %q", got, want)
	}
	p.waitLog("session opened", map[string]any{"user": pgcluster.ReplicationName, "backend": primary.Name})
}
