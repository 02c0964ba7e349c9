package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// load is an application at work while faults happen: clients of every kind, each of which connects again whenever its
// session ends, and a ledger of what was acknowledged to them.
type load struct {
	t       *testing.T
	p       *program
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
	start   time.Time
	mark    string // in front of the ids of its rows
	clients int

	mu       sync.Mutex
	sessions map[*loadSession]struct{} // that are open
	ended    []*loadSession
	refused  []refusedLogin
	entries  []ledgerEntry
	undone   []string // ids of rows whose transaction was never committed
	wrong    []error
}

// loadSession is one session of a client, from its login to its end. The times are since the load's start.
type loadSession struct {
	kind          clientKind
	server        string // its port
	opened, ended time.Duration
	err           error // what ended it
}

// refusedLogin is a connection that did not come to be a session.
type refusedLogin struct {
	kind clientKind
	at   time.Duration
	err  error
}

// ledgerEntry is a row whose commit was acknowledged.
type ledgerEntry struct {
	id      string
	session *loadSession
	// sent is when the statement that commits was sent, acked when its answer was there.
	sent, acked time.Duration
}

// clientKind is what a client does with its session.
type clientKind string

const (
	writing       clientKind = "writing"        // transactions of one row, one after the other
	idling        clientKind = "idle"           // nothing
	inTransaction clientKind = "in transaction" // one row, and no commit
	sleeping      clientKind = "sleeping"       // a query that takes longer than any test
	burning       clientKind = "cpu-bound"      // statements that calculate for a while and then write a row
	reading       clientKind = "reading"        // queries, on a replica
)

// loadMix is how many clients of each kind there are: 64.
var loadMix = map[clientKind]int{writing: 20, idling: 12, inTransaction: 10, sleeping: 10, burning: 4, reading: 8}

// toPrimary are the kinds whose sessions belong on the primary.
var toPrimary = []clientKind{writing, idling, inTransaction, sleeping, burning}

// What the clients call themselves, so that a server can be asked who is on it.
const (
	writerName = "fault-writer" // every session that was routed to the primary
	readerName = "fault-reader"
)

// ledgerSQL is the table that the load writes to. port is that of the server that wrote the row.
const ledgerSQL = `CREATE TABLE IF NOT EXISTS ledger (
	id text PRIMARY KEY,
	port int NOT NULL DEFAULT current_setting('port')::int,
	at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE ledger OWNER TO ` + appUser

// startLoad makes the table on the primary and starts the clients of loadMix; it returns once each has a session.
func startLoad(t *testing.T, p *program, primary *pgcluster.Server) *load {
	t.Helper()
	return startMix(t, p, primary, loadMix)
}

// startMix is startLoad with another mix.
func startMix(t *testing.T, p *program, primary *pgcluster.Server, mix map[clientKind]int) *load {
	t.Helper()
	if err := primary.Exec(testContext(t), "app", ledgerSQL); err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, p: p, start: time.Now(), mark: rand.Text()[:6], sessions: make(map[*loadSession]struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	t.Cleanup(l.stop)
	for kind, clients := range mix {
		for range clients {
			l.clients++
			l.work.Go(l.newClient(kind, l.clients).run)
		}
	}
	l.wait("every client has a session", func() bool { return len(l.sessions) == l.clients })
	return l
}

// stop ends every client and waits for it. The sessions that it ends are not among the ended.
func (l *load) stop() {
	l.cancel()
	l.work.Wait()
}

// now is the time since the start.
func (l *load) now() time.Duration { return time.Since(l.start) }

// wait waits for a condition, which is asked under the lock.
func (l *load) wait(what string, done func() bool) {
	l.t.Helper()
	l.waitFor(patience, what, done)
}

func (l *load) waitFor(longest time.Duration, what string, done func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(longest); ; time.Sleep(5 * time.Millisecond) {
		l.mu.Lock()
		ok := done()
		l.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("waited %v in vain until %s; %s\nlog of the program:\n%s", longest, what, l.summary(), l.p.log())
		}
	}
}

// summary tells how the load fares, for a test that fails.
func (l *load) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := make(map[string]int)
	for s := range l.sessions {
		open[string(s.kind)+" on "+s.server]++
	}
	last := "none"
	if n := len(l.refused); n > 0 {
		last = fmt.Sprint(l.refused[n-1].err)
	}
	return fmt.Sprintf("open sessions: %v; %d rows acknowledged; %d logins refused, the last: %s", open, len(l.entries), len(l.refused), last)
}

// open counts the sessions of some kinds, of all if none is named, on a server, nil for any. The caller holds mu.
func (l *load) open(s *pgcluster.Server, kinds ...clientKind) (n int) {
	for session := range l.sessions {
		if (s == nil || session.server == port(s)) && (len(kinds) == 0 || slices.Contains(kinds, session.kind)) {
			n++
		}
	}
	return n
}

// waitFenced waits until no session is left on a server that was there at the time since, and returns when the last of
// them ended and how many they were.
func (l *load) waitFenced(s *pgcluster.Server, since time.Duration, longest time.Duration) (last time.Duration, n int) {
	l.t.Helper()
	l.waitFor(longest, "no session is left on "+s.Name, func() bool {
		for session := range l.sessions {
			if session.server == port(s) && session.opened < since {
				return false
			}
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, session := range l.ended {
		if session.server == port(s) && session.opened < since && session.ended >= since {
			last, n = max(last, session.ended), n+1
		}
	}
	return last, n
}

// waitAll waits until every client has a session, all but the reading on a server, and each of the writing has had a row
// acknowledged there since the call.
func (l *load) waitAll(s *pgcluster.Server) {
	l.t.Helper()
	since := l.now()
	l.wait("the load is on "+s.Name, func() bool {
		if len(l.sessions) != l.clients || l.open(s, toPrimary...) != l.open(nil, toPrimary...) {
			return false
		}
		served := make(map[*loadSession]bool)
		for i := len(l.entries) - 1; i >= 0 && l.entries[i].acked > since; i-- {
			if l.entries[i].sent > since {
				served[l.entries[i].session] = true
			}
		}
		for session := range l.sessions {
			if session.kind == writing && !served[session] {
				return false
			}
		}
		return true
	})
}

// waitWriters waits until so many of the writing clients have a session on a server. The readers may have none.
func (l *load) waitWriters(s *pgcluster.Server, n int) {
	l.t.Helper()
	l.wait("the writers are on "+s.Name, func() bool { return l.open(s, writing) == n })
}

// endings returns what ended the sessions on a server since a time.
func (l *load) endings(s *pgcluster.Server, since time.Duration) (ended []*loadSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, session := range l.ended {
		if session.server == port(s) && session.ended >= since {
			ended = append(ended, session)
		}
	}
	return ended
}

// opening notes a session.
func (l *load) opening(s *loadSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.opened = l.now()
	l.sessions[s] = struct{}{}
}

// closing notes the end of a session.
func (l *load) closing(s *loadSession, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s)
	if l.ctx.Err() != nil {
		return // it is our own doing
	}
	s.ended, s.err = l.now(), err
	l.ended = append(l.ended, s)
	if !ordinaryEnd(err) {
		l.wrong = append(l.wrong, fmt.Errorf("%s session on %s ended with: %w", s.kind, s.server, err))
	}
}

// turnedAway notes a login that failed.
func (l *load) turnedAway(kind clientKind, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() == nil {
		l.refused = append(l.refused, refusedLogin{kind, l.now(), err})
	}
}

// mistake notes what must not be.
func (l *load) mistake(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Errorf(format, args...))
}

// ordinaryEnd tells whether a session may end so: because its server ends, because the program says that it must, or
// because the connection breaks. What is not ordinary above all is 25006, a write on a standby.
func ordinaryEnd(err error) bool {
	var response *pgconn.PgError
	if errors.As(err, &response) {
		return slices.Contains([]string{"57P01", "57P02", "57P03", "57P05", "57014"}, response.Code)
	}
	// Nothing was sent where pgconn knew already that the connection had ended.
	return pgconn.SafeToRetry(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE)
}

// jitter is a time around d, so that clients do not come in step.
func jitter(d time.Duration) time.Duration { return d/2 + mrand.N(d) }
