package e2e

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// front is the program in front of a shared cluster.
type front struct {
	*program
	cluster *pgcluster.Cluster
}

// eachFront runs a test with the oldest servers behind a plain leg and with the newest behind TLS.
func eachFront(t *testing.T, test func(t *testing.T, f front)) {
	t.Helper()
	for i, version := range versions {
		t.Run(fmt.Sprintf("PostgreSQL %d, %s", version, legs[i].name), func(t *testing.T) {
			c := sharedCluster(t, version)
			test(t, front{serve(t, listenHCL+clusterHCL(c, legs[i].hcl(t)...)), c})
		})
	}
}

// dsn is the program's, for clients that know channel binding: over a TLS leg they have to do without.
func (f front) dsn(database string, params ...string) string {
	f.t.Helper()
	return f.program.dsn(database, append(params, "channel_binding=disable")...)
}

// connect opens a session that ends with the test.
func (f front) connect(t *testing.T, database string, params ...string) *pgx.Conn {
	t.Helper()
	ctx := testContext(t)
	conn, err := pgx.Connect(ctx, f.dsn(database, params...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// mustExec runs statements of which the test needs no result.
func mustExec(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(testContext(t), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// value returns the one value of a query.
func value[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := conn.QueryRow(testContext(t), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// mustPsql runs psql and returns its output.
func mustPsql(t *testing.T, dsn string, args ...string) string {
	t.Helper()
	out, stderr, err := psql(t, "", dsn, args...)
	if err != nil {
		t.Fatalf("psql %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return out
}

// Rows come out of a table and go into another by COPY, with everything in them that needs quoting.
func TestCopy(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		conn := f.connect(t, "app")
		mustExec(t, conn, `CREATE TABLE copied AS SELECT i AS id, md5(i::text) AS body, decode(md5(i::text), 'hex') AS raw,
			CASE WHEN i % 7 > 0 THEN E'tab\t line\n quote" \\ ünï 🐘 ' || i END AS note FROM generate_series(1, 100000) i`)
		defer mustExec(t, conn, "DROP TABLE copied")
		const checksum = "SELECT count(*) || ' ' || md5(string_agg(c::text, '' ORDER BY id)) FROM %s c"
		want := value[string](t, conn, fmt.Sprintf(checksum, "copied"))
		for _, format := range []string{"text", "csv", "binary"} {
			file := filepath.Join(t.TempDir(), format)
			mustPsql(t, f.dsn("app"), "-c", fmt.Sprintf(`\copy copied TO '%s' WITH (FORMAT %s)`, file, format))
			mustExec(t, conn, "CREATE TABLE copy (LIKE copied)")
			mustPsql(t, f.dsn("app"), "-c", fmt.Sprintf(`\copy copy FROM '%s' WITH (FORMAT %s)`, file, format))
			if got := value[string](t, conn, fmt.Sprintf(checksum, "copy")); got != want {
				t.Errorf("%s: copy is %q, want %q", format, got, want)
			}
			mustExec(t, conn, "DROP TABLE copy")
		}
	})
}

// A notification reaches a session that is idle, unasked.
func TestNotifications(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		listener, notifier := f.connect(t, "app"), f.connect(t, "app")
		mustExec(t, listener, `LISTEN "channel of the tests"`)
		want := strings.Repeat("🐘", 1999) // the limit is 8000 bytes
		mustExec(t, notifier, fmt.Sprintf(`NOTIFY "channel of the tests", '%s'`, want))
		got, err := listener.WaitForNotification(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if got.Payload != want || got.PID != notifier.PgConn().PID() {
			t.Errorf("notification of %d bytes from process %d, want %d from %d",
				len(got.Payload), got.PID, len(want), notifier.PgConn().PID())
		}
	})
}

// Large objects go by the FunctionCall messages of the protocol, which nothing else uses.
func TestLargeObjects(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		want := make([]byte, 3<<20)
		_, _ = rand.Read(want)
		in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(in, want, 0o600); err != nil {
			t.Fatal(err)
		}
		mustPsql(t, f.dsn("app"), "-c", `\lo_import `+in, "-c", `\lo_export :LASTOID `+out, "-c", `\lo_unlink :LASTOID`)
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("large object came back as %d other bytes, went as %d", len(got), len(want))
		}
	})
}

// Prepared statements, and many of them in one pipeline, of which an error ends one part only.
func TestPipeline(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		ctx := testContext(t)
		conn := f.connect(t, "app_replica")
		if _, err := conn.Prepare(ctx, "twice", "SELECT 2 * $1::int"); err != nil {
			t.Fatal(err)
		}
		batch := &pgx.Batch{}
		for i := range 1000 {
			batch.Queue("twice", i).QueryRow(func(row pgx.Row) error {
				var got int
				if err := row.Scan(&got); err != nil || got != 2*i {
					return fmt.Errorf("twice %d is %d: %w", i, got, err)
				}
				return nil
			})
		}
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			t.Error(err)
		}

		pipeline := conn.PgConn().StartPipeline(ctx)
		for _, sql := range []string{"SELECT 1", "SELECT 1/0", "SELECT 'skipped'"} {
			pipeline.SendQueryParams(sql, nil, nil, nil, nil)
		}
		if err := pipeline.Sync(); err != nil {
			t.Fatal(err)
		}
		checkState(t, pipeline.Close(), "22012")
		if got := value[int](t, conn, "twice", 21); got != 42 {
			t.Errorf("after an error in the pipeline twice 21 is %d", got)
		}
	})
}

// A portal gives its rows in parts, as JDBC asks for them with a fetch size.
func TestPortal(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		raw, err := f.connect(t, "app_replica").PgConn().Hijack()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.Conn.Close() }()
		raw.Frontend.Send(&pgproto3.Parse{Query: "SELECT generate_series(1, 5)"})
		raw.Frontend.Send(&pgproto3.Bind{})
		for range 3 {
			raw.Frontend.Send(&pgproto3.Execute{MaxRows: 2})
		}
		raw.Frontend.Send(&pgproto3.Sync{})
		want := []string{
			"ParseComplete", "BindComplete", "DataRow", "DataRow", "PortalSuspended", "DataRow", "DataRow", "PortalSuspended",
			"DataRow", "CommandComplete", "ReadyForQuery",
		}
		if err := raw.Frontend.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, raw.Frontend); !slices.Equal(got, want) {
			t.Errorf("messages are %v, want %v", got, want)
		}
	})
}

// receive returns the names of the messages up to ReadyForQuery.
func receive(t *testing.T, frontend *pgproto3.Frontend) (names []string) {
	t.Helper()
	for {
		m, err := frontend.Receive()
		if err != nil {
			t.Fatalf("after %v: %v", names, err)
		}
		names = append(names, strings.TrimPrefix(fmt.Sprintf("%T", m), "*pgproto3."))
		if _, last := m.(*pgproto3.ReadyForQuery); last {
			return names
		}
	}
}

// A session lives on after the server's errors, in a transaction and in the middle of COPY.
func TestErrors(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		ctx := testContext(t)
		conn := f.connect(t, "app")
		mustExec(t, conn, "CREATE TEMP TABLE numbers (n int)", "BEGIN", "INSERT INTO numbers VALUES (1)")
		_, err := conn.Exec(ctx, "INSERT INTO numbers SELECT 1/0")
		checkState(t, err, "22012")
		_, err = conn.Exec(ctx, "INSERT INTO numbers VALUES (2)")
		checkState(t, err, "25P02")
		if got := conn.PgConn().TxStatus(); got != 'E' {
			t.Errorf("state of the transaction is %q, want E", got)
		}
		mustExec(t, conn, "ROLLBACK")
		lines := strings.Repeat("1\n", 100000) + "one\n" + strings.Repeat("1\n", 100000)
		_, err = conn.PgConn().CopyFrom(ctx, strings.NewReader(lines), "COPY numbers FROM STDIN")
		checkState(t, err, "22P02")
		if got := value[int](t, conn, "SELECT count(*) FROM numbers"); got != 0 {
			t.Errorf("%d rows were left, want none", got)
		}
		_, err = f.connect(t, "app_replica").Exec(ctx, "CREATE TABLE nowhere ()")
		checkState(t, err, "25006")
	})
}

// A client that closes its sending half still gets the answer to what it sent, and then the end.
func TestHalfClose(t *testing.T) {
	eachFront(t, func(t *testing.T, f front) {
		holder := f.connect(t, "app")
		mustExec(t, holder, "SELECT pg_advisory_lock(1)")
		raw, err := f.connect(t, "app").PgConn().Hijack()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.Conn.Close() }()
		raw.Frontend.Send(&pgproto3.Query{String: "SELECT pg_advisory_lock(1), repeat('x', 1000000)"})
		if err := raw.Frontend.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := raw.Conn.(*tls.Conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		waitActive(t, f.cluster.Servers()[0], "repeat(''x'', 1000000)")
		mustExec(t, holder, "SELECT pg_advisory_unlock(1)")
		want := []string{"RowDescription", "DataRow", "CommandComplete", "ReadyForQuery"}
		if got := receive(t, raw.Frontend); !slices.Equal(got, want) {
			t.Errorf("messages are %v, want %v", got, want)
		}
		if m, err := raw.Frontend.Receive(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("then came %v, %v, want the end", m, err)
		}
		f.waitLog("session closed", map[string]any{"level": "DEBUG"}) // nothing failed
	})
}
