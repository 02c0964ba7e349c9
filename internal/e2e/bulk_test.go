package e2e

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// memoryLimit is what the program may ever have had in memory while it passes any amount of data: small against the
// data of the tests, with room for the race detector.
const memoryLimit = 150 << 20

// checkMemory checks the program's largest resident size so far (proc_pid_status(5)).
func checkMemory(t *testing.T, p *program) {
	t.Helper()
	kb := p.statistic("status", "VmHWM")
	t.Logf("the program had %d MiB in memory at most", kb>>10)
	if kb<<10 > memoryLimit {
		t.Errorf("the program had %d KiB in memory, want %d at most", kb, memoryLimit>>10)
	}
}

// statistic returns a number that the kernel keeps of the program, from a file below /proc.
func (p *program) statistic(file, name string) int {
	p.t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		p.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(content), name+":")
	number, err := strconv.Atoi(strings.Fields(after + " none")[0])
	if err != nil {
		p.t.Fatalf("%s in %s: %v", name, file, err)
	}
	return number
}

// waitStill waits until the program reads no more than what its monitor asks for (proc_pid_io(5)). A program that gets no
// time from the kernel may seem to stand still, too.
func (p *program) waitStill() {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	before := p.statistic("io", "rchar")
	for still := 0; still < 3; {
		if time.Now().After(deadline) {
			p.t.Fatal("the program never stopped reading")
		}
		time.Sleep(50 * time.Millisecond)
		now := p.statistic("io", "rchar")
		if still++; now-before > 64<<10 {
			still = 0
		}
		before = now
	}
}

// newestFront is a program in front of the newest servers, with TLS on both legs: the way with most work.
func newestFront(t *testing.T) front {
	t.Helper()
	c := sharedCluster(t, versions[len(versions)-1])
	return front{serve(t, listenHCL+clusterHCL(c, leg{tls: true}.hcl(t)...)), c}
}

// gigabyte writes what the server is asked for below: 1024 lines of a megabyte.
func gigabyte(w io.Writer) {
	for i := range 1024 {
		sum := md5.Sum([]byte(strconv.Itoa(i + 1)))
		_, _ = w.Write(bytes.Repeat([]byte(hex.EncodeToString(sum[:])), 1<<15))
		_, _ = w.Write([]byte{'\n'})
	}
}

// hesitant is a writer that does something before its first write.
type hesitant struct {
	io.Writer
	first func()
}

func (w *hesitant) Write(b []byte) (int, error) {
	if w.first != nil {
		w.first()
		w.first = nil
	}
	return w.Writer.Write(b)
}

// A gigabyte passes as it is, and the program holds next to nothing of it: while the client takes nothing, the server
// has to wait.
func TestGigabyte(t *testing.T) {
	f := newestFront(t)
	conn := f.connect(t, "app")
	pid, primary := conn.PgConn().PID(), f.cluster.Servers()[0]
	want, got := sha256.New(), sha256.New()
	pause := func() {
		gigabyte(want)
		f.waitStill()
		doing, err := primary.QueryString(testContext(t), "postgres",
			fmt.Sprintf("SELECT concat_ws(' ', state, wait_event) FROM pg_stat_activity WHERE pid = %d", pid))
		if err != nil || doing != "active ClientWrite" {
			t.Errorf("while the client takes nothing, the server is %q, %v, want it waiting to write", doing, err)
		}
	}
	tag, err := conn.PgConn().CopyTo(testContext(t), &hesitant{got, pause},
		"COPY (SELECT repeat(md5(i::text), 1 << 15) FROM generate_series(1, 1024) i) TO STDOUT")
	if err != nil {
		t.Fatal(err)
	}
	if tag.RowsAffected() != 1024 || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d lines with checksum %x, want 1024 with %x", tag.RowsAffected(), got.Sum(nil), want.Sum(nil))
	}
	checkMemory(t, f.program)
}

// One value of 128 MiB goes to the server and comes back, a message each.
func TestLargeValue(t *testing.T) {
	f := newestFront(t)
	conn := f.connect(t, "app_replica")
	sent := bytes.Repeat([]byte("0123456789abcdef"), 8<<20)
	for i := 0; i < len(sent); i += 4096 {
		copy(sent[i:], strconv.Itoa(i)) // so that no part is like another
	}
	var got []byte
	if err := conn.QueryRow(testContext(t), "SELECT $1::bytea", sent).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("%d other bytes came back, want the %d sent", len(got), len(sent))
	}
	checkMemory(t, f.program)
}

// Many small messages pass in both directions, none lost and none twice.
func TestSmallMessages(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		ctx := testContext(t)
		conn := f.connect(t, "app_replica")
		rows, err := conn.Query(ctx, "SELECT generate_series(1, 300000)")
		if err != nil {
			t.Fatal(err)
		}
		next := 1
		for ; rows.Next(); next++ {
			var n int
			if err := rows.Scan(&n); err != nil || n != next {
				t.Fatalf("row %d is %d: %v", next, n, err)
			}
		}
		if rows.Err() != nil || next != 300001 {
			t.Fatalf("%d rows, %v", next-1, rows.Err())
		}

		batch := &pgx.Batch{}
		for i := range 20000 {
			batch.Queue("SELECT $1::int", i)
		}
		results := conn.SendBatch(ctx, batch)
		for i := range 20000 {
			var n int
			if err := results.QueryRow().Scan(&n); err != nil || n != i {
				t.Fatalf("answer %d is %d: %v", i, n, err)
			}
		}
		if err := results.Close(); err != nil {
			t.Error(err)
		}
		checkMemory(t, f.program)
	})
}

// dumped is what a database may hold.
const dumped = `
	CREATE SCHEMA "Odd ""schema""";
	CREATE TYPE "Odd ""schema""".mood AS ENUM ('sad', 'ünhappy', '🐘');
	CREATE TABLE authors (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,
		mood "Odd ""schema""".mood DEFAULT '🐘', born timestamptz);
	CREATE TABLE books (id bigserial, author int REFERENCES authors, title text, raw bytea, tags jsonb, prices numeric[],
		CHECK (id > 0)) PARTITION BY RANGE (id);
	CREATE TABLE books_old PARTITION OF books FOR VALUES FROM (0) TO (5000);
	CREATE TABLE books_new PARTITION OF books DEFAULT;
	CREATE INDEX ON books (lower(title));
	INSERT INTO authors (name, born) SELECT E'author\t' || i, '2000-01-01'::timestamptz + i * interval '1 hour'
		FROM generate_series(1, 1000) i;
	INSERT INTO books (author, title, raw, tags, prices) SELECT 1 + i % 1000, repeat('title ', i % 50), decode(md5(i::text), 'hex'),
		jsonb_build_object('n', i, 'text', E'\\ "\n'), ARRAY[i, i / 3.0] FROM generate_series(1, 20000) i;
	CREATE VIEW recent AS SELECT name, title FROM books JOIN authors a ON author = a.id WHERE books.id > 5000;
	CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql AS $$ SELECT a + b; -- 'quoted' $$;
	COMMENT ON TABLE books IS 'it''s; "quoted"
over lines';
	SELECT lo_from_bytea(4711, decode(repeat('00ff5c', 100000), 'hex')),
		setval('authors_id_seq', 1000), setval('books_id_seq', 20000) -- standbys know sequences in steps of 32 only`

// A dump by way of the program, of a standby, is the dump of the primary itself, and restored by way of the program
// makes a database with the same dump.
func TestDumpAndRestore(t *testing.T) {
	c := sharedCluster(t, versions[0]) // whose version pg_dump has
	f := front{serve(t, listenHCL+clusterHCL(c)), c}
	for _, database := range []string{"dumped", "restored"} {
		createDatabase(t, c, database, appUser)
	}
	mustPsql(t, f.dsn("dumped"), "-1", "-c", dumped)
	primary := c.Servers()[0]
	direct, want := dump(t, c, fmt.Sprintf("postgresql://%s:%s@%s:%d/dumped", appUser, appPassword, primary.Host, primary.Port))
	if !strings.Contains(want, "COPY public.books_old") || !strings.Contains(want, "lo_create('4711')") {
		t.Errorf("the dump lacks what it should hold:\n%.2000s", want)
	}
	mustPsql(t, f.dsn("restored"), "-f", direct)
	for _, database := range []string{"dumped", "dumped_replica", "restored", "restored_replica"} {
		if _, got := dump(t, c, f.dsn(database)); got != want {
			t.Errorf("%s: dump of %d bytes differs from the primary's of %d", database, len(got), len(want))
		}
	}
}

// dump dumps a database once the standbys have all of it.
func dump(t *testing.T, c *pgcluster.Cluster, dsn string) (file, text string) {
	t.Helper()
	waitStandbys(t, c)
	file = filepath.Join(t.TempDir(), "dump")
	// Without a key of ours each dump has one of its own.
	runTool(t, filepath.Join(installation(t, versions[0]).BinDir, "pg_dump"), "--restrict-key=tests", "-f", file, "-d", dsn)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, string(content)
}

// runTool runs a program of PostgreSQL to its end and returns what it prints to its standard error.
func runTool(t *testing.T, name string, args ...string) string {
	t.Helper()
	stderr, err := tool(testContext(t), name, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, stderr)
	}
	return stderr
}

func tool(ctx context.Context, name string, args ...string) (stderr string, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var errs strings.Builder
	cmd.Env, cmd.Stderr = cleanEnvironment("PGCONNECT_TIMEOUT=30"), &errs
	err = cmd.Run()
	return errs.String(), err
}
