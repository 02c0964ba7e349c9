package e2e

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// loadClient is one client of a load, with one session after the other.
type loadClient struct {
	*load
	kind   clientKind
	number int
	rows   int
	config *pgconn.Config
}

// The pauses of a client between two things that it does, and before it connects again.
const (
	writePause   = 25 * time.Millisecond
	connectPause = 100 * time.Millisecond
)

func (l *load) newClient(kind clientKind, number int) *loadClient {
	database, name := "app", writerName
	if kind == reading {
		database, name = "app_replica", readerName
	}
	config, err := pgconn.ParseConfig(l.p.dsn(database, "application_name="+name))
	if err != nil {
		l.t.Fatal(err)
	}
	return &loadClient{load: l, kind: kind, number: number, config: config}
}

// run connects and works until the load is stopped.
func (c *loadClient) run() {
	for c.ctx.Err() == nil {
		conn, err := pgconn.ConnectConfig(c.ctx, c.config)
		if err != nil {
			c.turnedAway(c.kind, err)
			c.pause(connectPause)
			continue
		}
		s, err := c.greet(conn)
		if err == nil {
			c.opening(s)
			c.closing(s, c.use(conn, s))
		}
		_ = conn.Close(c.ctx)
		c.pause(connectPause / 4)
	}
}

// pause waits for about d.
func (c *loadClient) pause(d time.Duration) {
	select {
	case <-c.ctx.Done():
	case <-time.After(jitter(d)):
	}
}

// greet finds out which server a new session is on, and checks that it has the right role: by what the server said in the
// login, which cannot be about another moment.
func (c *loadClient) greet(conn *pgconn.PgConn) (*loadSession, error) {
	want := "off"
	if c.kind == reading {
		want = "on"
	}
	if got := conn.ParameterStatus("in_hot_standby"); got != want {
		c.mistake("%s session begins with in_hot_standby %q", c.kind, got)
	}
	server, err := one(conn.Exec(c.ctx, "SELECT current_setting('port')"))
	return &loadSession{kind: c.kind, server: server}, err
}

// use works with a session until it ends, and returns what ended it.
func (c *loadClient) use(conn *pgconn.PgConn, s *loadSession) error {
	switch c.kind {
	case writing:
		return c.repeat(func() error { return c.transact(conn, s) })
	case burning:
		return c.repeat(func() error { return c.burn(conn, s) })
	case reading:
		return c.repeat(func() error {
			_, err := conn.Exec(c.ctx, "SELECT count(*) FROM pg_class").ReadAll()
			return err
		})
	case sleeping:
		_, err := conn.Exec(c.ctx, "SELECT pg_sleep(3600)").ReadAll()
		return err
	case inTransaction:
		if err := c.leaveOpen(conn); err != nil {
			return err
		}
	}
	for {
		if _, err := conn.ReceiveMessage(c.ctx); err != nil {
			return err
		}
	}
}

func (c *loadClient) repeat(do func() error) error {
	for {
		if err := do(); err != nil {
			return err
		}
		c.pause(writePause)
	}
}

// nextID is the id of a new row.
func (c *loadClient) nextID() string {
	c.rows++
	return fmt.Sprintf("%s-%d-%d", c.mark, c.number, c.rows)
}

// transact writes one row in a transaction.
func (c *loadClient) transact(conn *pgconn.PgConn, s *loadSession) error {
	id := c.nextID()
	at, err := one(conn.Exec(c.ctx, "BEGIN; INSERT INTO ledger VALUES ('"+id+"') RETURNING port"))
	if err != nil {
		return err
	}
	if at != s.server {
		c.mistake("a session on %s wrote on %s", s.server, at)
	}
	return c.commit(conn, s, id, "COMMIT")
}

// burnTime is how long a statement of a burning client calculates before it writes.
const burnTime = "400ms"

// burn writes a row at the end of a statement that keeps a processor busy.
func (c *loadClient) burn(conn *pgconn.PgConn, s *loadSession) error {
	id := c.nextID()
	return c.commit(conn, s, id, "DO $$ DECLARE until timestamptz := clock_timestamp() + '"+burnTime+"'; BEGIN "+
		"WHILE clock_timestamp() < until LOOP END LOOP; INSERT INTO ledger VALUES ('"+id+"'); END $$")
}

// commit runs the statement that commits the row, and enters it into the ledger once that is acknowledged.
func (c *loadClient) commit(conn *pgconn.PgConn, s *loadSession, id, sql string) error {
	sent := c.now()
	results, err := conn.Exec(c.ctx, sql).ReadAll()
	if err != nil {
		return err
	}
	if tag := results[len(results)-1].CommandTag.String(); tag != "COMMIT" && tag != "DO" {
		return fmt.Errorf("commit of %s was answered with %q", id, tag)
	}
	acked := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = append(c.entries, ledgerEntry{id: id, session: s, sent: sent, acked: acked})
	return nil
}

// leaveOpen writes a row in a transaction that it does not end.
func (c *loadClient) leaveOpen(conn *pgconn.PgConn) error {
	id := c.nextID()
	c.mu.Lock()
	c.undone = append(c.undone, id)
	c.mu.Unlock()
	_, err := conn.Exec(c.ctx, "BEGIN; INSERT INTO ledger VALUES ('"+id+"')").ReadAll()
	return err
}

// one returns the first value of a result.
func one(reader *pgconn.MultiResultReader) (string, error) {
	results, err := reader.ReadAll()
	if err != nil {
		return "", err
	}
	for _, result := range results {
		if len(result.Rows) > 0 {
			return string(result.Rows[0][0]), nil
		}
	}
	return "", nil
}
