package backends

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// session is the monitor's session on a server.
type session struct {
	pg       *pgconn.PgConn
	conn     *Conn
	leafHash [32]byte
}

// farewell bounds the polite end of a session.
const farewell = time.Second

// logIn opens a session on the way that clients' sessions take. The context bounds it until the session is ready to be
// asked.
func logIn(ctx context.Context, t Target, c Credentials, timeout time.Duration) (*session, error) {
	conn, err := Dial(ctx, t, Origin{})
	if err != nil {
		return nil, err
	}
	config, err := loginConfig(t, c, timeout)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	config.DialFunc = only(conn)
	pg, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("log in to %s: %w", t.Name, plain(err))
	}
	s := &session{pg: pg, conn: conn}
	if conn.Leaf != nil {
		s.leafHash = sha256.Sum256(conn.Leaf.Raw)
	}
	if _, err := pg.Prepare(ctx, roleStatement, roleQuery, nil); err != nil {
		s.close()
		return nil, fmt.Errorf("prepare the query on %s: %w", t.Name, err)
	}
	return s, nil
}

// only returns a dial function that hands out conn, and no other connection after it: pgconn would open one to send a cancel
// request to a server that has just failed to answer. conn is handed out bare, because pgconn recognises a *tls.Conn by its
// type, and SCRAM-SHA-256-PLUS depends on that.
func only(conn *Conn) pgconn.DialFunc {
	first := make(chan net.Conn, 1)
	first <- conn.Conn
	return func(context.Context, string, string) (net.Conn, error) {
		select {
		case c := <-first:
			return c, nil
		default:
			return nil, errors.New("the monitor uses one connection")
		}
	}
}

// errEnvironment is an environment in which pgconn makes no configuration. It reads PGSERVICE, and nothing overrides that.
var errEnvironment = errors.New("the process's PG* environment variables do not fit")

// neutral overrides everything that pgconn.ParseConfig would take from the environment, from ~/.pgpass and from
// ~/.postgresql. What it sets is not used; loginConfig replaces it.
const neutral = "host=127.0.0.1 port=5432 user=none password=none database=none passfile='' connect_timeout=0 " +
	"sslmode=disable sslcertmode=disable sslnegotiation=postgres sslcert='' sslkey='' sslrootcert='' " +
	"target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth=''"

// loginConfig returns how pgconn logs in on a connection that it is given.
func loginConfig(t Target, c Credentials, timeout time.Duration) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(neutral)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEnvironment, err)
	}
	config.User, config.Password, config.Database = c.User, c.Password, c.Database
	config.Fallbacks, config.ValidateConnect = nil, nil
	config.RuntimeParams = map[string]string{
		"application_name": "pgreplicaproxy",
		// Whatever the role's own search_path says, functions and operators are the system's.
		"search_path": "pg_catalog",
		// What was given up here need not go on there.
		"statement_timeout": strconv.FormatInt(max(1, timeout.Milliseconds()), 10),
	}
	config.MaxProtocolMessageBodyLen = 64 << 10
	config.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler { return interrupter{pg.Conn()} }
	// A server, or whoever answers in its place, may ask for a password in any form. Over a way that is not secure only
	// SCRAM is answered: it gives nothing away that a guess could be tested against, unlike md5.
	config.RequireAuth = "scram-sha-256,none"
	if t.Secure() {
		config.RequireAuth = "scram-sha-256,md5,password,none"
	}
	return config, nil
}

// grace is how long an answer is looked for when the time for it is over. A process that was not awake meanwhile meets both at
// once, the end of the time and the answer.
const grace = 50 * time.Millisecond

// interrupter ends what a session waits for when the context does: at once, but for the grace where it is the time that is over.
type interrupter struct{ conn net.Conn }

func (i interrupter) HandleCancel(ctx context.Context) {
	at := time.Now()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		at = at.Add(grace)
	}
	_ = i.conn.SetDeadline(at)
}

func (i interrupter) HandleUnwatchAfterCancel() { _ = i.conn.SetDeadline(time.Time{}) }

// plain strips what pgconn puts before the cause of a failed login: it names the address, which is not the true one here.
func plain(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server
	}
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	joined, ok := connect.Unwrap().(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 1 {
		return err
	}
	if cause := errors.Unwrap(joined.Unwrap()[0]); cause != nil {
		return cause
	}
	return err
}

// listen reads until the session is over, which closes the channel over, or the context ends. It closes done when it
// returns. What a server says unasked, such as notices and changed parameters, is passed over, and why a session ended is not
// asked: the next login tells.
func (s *session) listen(ctx context.Context, over, done chan<- struct{}) {
	defer close(done)
	for ctx.Err() == nil {
		_ = s.pg.WaitForNotification(ctx)
		if s.over() {
			close(over)
			return
		}
	}
}

// over reports whether the session has ended.
func (s *session) over() bool { return s.pg.IsClosed() }

// close ends the session: politely, with Terminate, if it is not over already.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_ = s.pg.Close(ctx)
	// If pgconn had closed by itself, a goroutine of its may still be reading.
	_ = s.conn.Close()
	<-s.pg.CleanupDone()
}
