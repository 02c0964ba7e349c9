package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// writers insert rows through the program, each on a session of its own that it opens again whenever it ends.
type writers struct {
	t     *testing.T
	ctx   context.Context
	stop  func()
	dsn   string
	clock atomic.Int64 // counts what happens, so that it can be told what was first

	mu      sync.Mutex
	written map[string]*[writerCount][]write // by the port of the server that acknowledged
	opened  map[string]int64                 // when the first session was open that wrote there
	refused [writerCount]int64               // when each was last turned away
	wrong   []error
}

const writerCount = 8

// write is a row that was acknowledged.
type write struct {
	id   string
	sent int64
}

// startWriters makes the table and starts writing; it returns once all write.
func startWriters(t *testing.T, p *program, c *pgcluster.Cluster) *writers {
	t.Helper()
	primary := c.Servers()[0]
	create := "CREATE TABLE writes (id text PRIMARY KEY, port int DEFAULT inet_server_port()); ALTER TABLE writes OWNER TO " + appUser
	if err := primary.Exec(testContext(t), "app", create); err != nil {
		t.Fatal(err)
	}
	w := &writers{t: t, dsn: p.dsn("app"), written: make(map[string]*[writerCount][]write), opened: make(map[string]int64)}
	ctx, cancel := context.WithCancel(testContext(t))
	w.ctx = ctx
	var work sync.WaitGroup
	for i := range writerCount {
		work.Go(func() { w.run(i) })
	}
	w.stop = func() { cancel(); work.Wait() }
	t.Cleanup(w.stop)
	w.waitWritten(primary)
	return w
}

// pace keeps the writers from taking the whole machine.
const pace = 2 * time.Millisecond

func (w *writers) run(number int) {
	for n := 0; w.ctx.Err() == nil; time.Sleep(pace) {
		conn, err := pgconn.Connect(w.ctx, w.dsn)
		if err != nil {
			w.turnedAway(number, err)
			continue
		}
		opened := w.clock.Add(1)
		for ; err == nil; n++ {
			err = w.write(conn, number, n, opened)
			time.Sleep(pace)
		}
		_ = conn.Close(w.ctx)
	}
}

// write inserts one row and notes what became of it.
func (w *writers) write(conn *pgconn.PgConn, number, n int, opened int64) error {
	one := write{id: fmt.Sprintf("%d-%d", number, n), sent: w.clock.Add(1)}
	sql := "INSERT INTO writes VALUES ('" + one.id + "') RETURNING port, pg_is_in_recovery()"
	results, err := conn.Exec(w.ctx, sql).ReadAll()
	w.mu.Lock()
	defer w.mu.Unlock()
	var response *pgconn.PgError
	switch {
	case errors.As(err, &response) && response.Severity == "ERROR": // 25006: the session is on a standby
		w.wrong = append(w.wrong, err)
		return err
	case err != nil:
		return err
	}
	row := results[0].Rows[0]
	if string(row[1]) != "f" {
		w.wrong = append(w.wrong, fmt.Errorf("row %s was written during recovery", one.id))
	}
	at := string(row[0])
	if w.written[at] == nil {
		w.written[at], w.opened[at] = new([writerCount][]write), opened
	}
	w.written[at][number] = append(w.written[at][number], one)
	w.opened[at] = min(w.opened[at], opened)
	return nil
}

// turnedAway notes a connection that was refused.
func (w *writers) turnedAway(number int, err error) {
	var response *pgconn.PgError
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.As(err, &response) && response.Code == "57P03" {
		w.refused[number] = w.clock.Add(1)
	}
}

// wait waits for a condition, which is asked under the lock.
func (w *writers) wait(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		ok := done()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("waited in vain until " + what)
		}
	}
}

// waitWritten waits until each has written on a server.
func (w *writers) waitWritten(s *pgcluster.Server) {
	w.t.Helper()
	w.wait("all write on "+s.Name, func() bool {
		rows := w.written[port(s)]
		return rows != nil && !slices.ContainsFunc(rows[:], func(rows []write) bool { return len(rows) == 0 })
	})
}

// waitRefused waits until each is turned away, and so has no session any more.
func (w *writers) waitRefused() {
	w.t.Helper()
	now := w.clock.Add(1)
	w.wait("all are refused", func() bool { return slices.Min(w.refused[:]) > now })
}

// rows are those that a server acknowledged.
func (w *writers) rows(s *pgcluster.Server) []write {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.written[port(s)] == nil {
		return nil
	}
	return slices.Concat(w.written[port(s)][:]...)
}

// check looks for rows that were written on the old server after the new one was served, and for rows that the new server
// acknowledged and does not have. Rows of the old one may be missing there, since replication was not synchronous.
func (w *writers) check(old, now *pgcluster.Server) {
	w.t.Helper()
	before, after := w.rows(old), w.rows(now)
	w.mu.Lock()
	opened, wrong := w.opened[port(now)], errors.Join(w.wrong...)
	w.mu.Unlock()
	if wrong != nil {
		w.t.Error(wrong)
	}
	for _, row := range before {
		if row.sent > opened {
			w.t.Errorf("row %s was written on %s after %s was served", row.id, old.Name, now.Name)
		}
	}
	all, err := now.QueryString(testContext(w.t), "app", "SELECT string_agg(id, ' ') FROM writes")
	if err != nil {
		w.t.Fatal(err)
	}
	stored := strings.Fields(all)
	slices.Sort(stored)
	for _, row := range after {
		if _, ok := slices.BinarySearch(stored, row.id); !ok {
			w.t.Errorf("row %s was acknowledged by %s and is not there", row.id, now.Name)
		}
	}
}
