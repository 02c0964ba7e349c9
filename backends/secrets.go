package backends

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/scram"
)

// RoleSecret is what a server has on file for a role.
type RoleSecret struct {
	// Secret is nil for a role that cannot log in with SCRAM: unknown, without a password or with another kind of one,
	// expired, not allowed to log in, or a superuser where those are not allowed.
	Secret *scram.Secret
	// Iterations is what the server would give a new secret (scram_iterations), for an answer to roles without one.
	Iterations int
}

// Secrets reads SCRAM secrets from the servers of one cluster, with the monitor's credentials, over one connection to each
// server that carries nothing else: no word of a client reaches its session but the name of a role, as a parameter. Its
// methods may be called from anywhere.
type Secrets struct {
	mu      sync.Mutex
	readers map[string]*secretReader // by the server's name
}

// NewSecrets returns the store of a cluster. It connects when it is first asked. Superusers have a secret only if they are
// allowed here, and by the function on the server.
func NewSecrets(config MonitorConfig, superusers bool) *Secrets {
	s := new(Secrets)
	s.Update(config, superusers)
	return s
}

// Update changes the servers, and how they are asked. What is known from servers that stay the same is kept. It takes as long
// as a question that is under way to a server that goes.
func (s *Secrets) Update(config MonitorConfig, superusers bool) {
	config = config.settled()
	s.mu.Lock()
	old := s.readers
	s.readers = make(map[string]*secretReader, len(config.Targets))
	for _, t := range config.Targets {
		r := old[t.Name]
		if r == nil || !r.target.SameServer(t) || r.timeout != config.Timeout || r.superusers != superusers ||
			!r.logsInAs(config.Credentials) {
			s.readers[t.Name] = newSecretReader(t, config, superusers)
			continue
		}
		s.readers[t.Name] = r
		delete(old, t.Name)
	}
	s.mu.Unlock()
	for _, r := range old {
		r.close()
	}
}

// reader returns who asks a server, nil for one that is none of the cluster's.
func (s *Secrets) reader(backend string) *secretReader {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readers[backend]
}

// Lookup returns what a server has on file for a role, at most maxAge old; zero asks the server, after the call began. Calls
// for the same role at the same time share a question. An error says that the server could not be asked within the
// monitor's timeout, or that the function which answers is missing there.
func (s *Secrets) Lookup(ctx context.Context, backend, role string, maxAge time.Duration) (RoleSecret, error) {
	r := s.reader(backend)
	if r == nil {
		return RoleSecret{}, fmt.Errorf("read secret: no server %q", backend)
	}
	since := time.Now().Add(-maxAge)
	if found, ok := r.cached(role, since); ok {
		return found, nil
	}
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	found, err := r.read(limited, role, since)
	if limited.Err() != nil && ctx.Err() == nil { // the login may go on
		return RoleSecret{}, fmt.Errorf("read secret on %s: no answer within %v", backend, r.timeout)
	}
	if err != nil {
		return RoleSecret{}, fmt.Errorf("read secret on %s: %w", backend, err)
	}
	return found, nil
}

// Close ends the connections. Whatever is looked up afterwards is an error.
func (s *Secrets) Close() { s.Update(MonitorConfig{}, false) }

// maxCached bounds what strangers can make a server's cache hold by asking for roles.
const maxCached = 4096

// cachedSecret is an answer and when it was asked for.
type cachedSecret struct {
	RoleSecret
	at time.Time
}

// secretReader asks one server.
type secretReader struct {
	target   Target
	logIn    func(context.Context) (*session, error)
	logsInAs func(Credentials) bool
	timeout  time.Duration // of one question, a login and the wait for the turn included
	// superusers says that they may have a secret.
	superusers bool
	// turn is held by whoever uses the session.
	turn    chan struct{}
	session *session

	mu    sync.Mutex
	cache map[string]cachedSecret
}

func newSecretReader(t Target, config MonitorConfig, superusers bool) *secretReader {
	credentials, timeout := config.Credentials, config.Timeout // what a function has caught, nobody prints
	return &secretReader{
		target: t, timeout: timeout, superusers: superusers, turn: make(chan struct{}, 1), cache: make(map[string]cachedSecret),
		logIn:    func(ctx context.Context) (*session, error) { return logIn(ctx, t, credentials, timeout) },
		logsInAs: func(c Credentials) bool { return c == credentials },
	}
}

// close ends the connection for good, once nobody uses it.
func (r *secretReader) close() {
	r.turn <- struct{}{}
	r.hangUp()
}

// cached returns an answer that was asked for after since.
func (r *secretReader) cached(role string, since time.Time) (RoleSecret, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.cache[role]
	return c.RoleSecret, ok && c.at.After(since)
}

func (r *secretReader) remember(role string, found RoleSecret, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.cache[role]; !known && len(r.cache) >= maxCached {
		for other := range r.cache { // any one: map order is random
			delete(r.cache, other)
			break
		}
	}
	r.cache[role] = cachedSecret{found, at}
}

// secretQuery calls the function that `pgreplicaproxy sql` prints, and passes over superusers unless the second argument allows
// them: the function may have been made when the configuration did. It does the same work for every role, so that its time
// tells nothing; OFFSET 0 keeps the planner from sparing any.
const secretQuery = `
SELECT CASE WHEN $2::boolean OR NOT r.superuser THEN r.secret END, pg_catalog.current_setting('scram_iterations', true)
FROM (SELECT pgreplicaproxy.scram_secret($1::text) AS secret,
             EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1::text AND r.rolsuper) AS superuser OFFSET 0) AS r`

func secretArguments(role string, superusers bool) [][]byte {
	return [][]byte{[]byte(role), strconv.AppendBool(nil, superusers)}
}

// defaultIterations is what servers before 16 use, which have no scram_iterations.
const defaultIterations = 4096

// read asks the server, once more over a new connection if the old one turns out to be gone. Who had the turn before may
// have asked for the same.
func (r *secretReader) read(ctx context.Context, role string, since time.Time) (RoleSecret, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return RoleSecret{}, ctx.Err()
	}
	if found, ok := r.cached(role, since); ok {
		return found, nil
	}
	for fresh := r.session == nil; ; fresh = true {
		if r.session == nil {
			session, err := r.logIn(ctx)
			if err != nil {
				return RoleSecret{}, err
			}
			r.session = session
		}
		at := time.Now()
		found, err := r.ask(ctx, role)
		if err == nil {
			r.remember(role, found, at)
		}
		if !r.session.over() {
			return found, err
		}
		r.hangUp()
		if err == nil || fresh || ctx.Err() != nil {
			return found, err
		}
	}
}

// ask asks over the session. A name that the database's encoding does not have is that of no role.
func (r *secretReader) ask(ctx context.Context, role string) (RoleSecret, error) {
	const notInEncoding, noRole = "22021", ""
	result := r.session.pg.ExecParams(ctx, secretQuery, secretArguments(role, r.superusers), nil, nil, nil).Read()
	var server *pgconn.PgError
	switch {
	case result.Err == nil:
		return secretOf(result)
	case !errors.As(result.Err, &server):
		return RoleSecret{}, result.Err
	case server.Code == notInEncoding && role != noRole:
		return r.ask(ctx, noRole)
	default:
		return RoleSecret{}, explainSecret(server)
	}
}

func (r *secretReader) hangUp() {
	if r.session != nil {
		r.session.close()
		r.session = nil
	}
}

// secretOf reads the answer to secretQuery.
func secretOf(result *pgconn.Result) (RoleSecret, error) {
	if len(result.Rows) != 1 || len(result.Rows[0]) != 2 {
		return RoleSecret{}, errors.New("unexpected answer")
	}
	found := RoleSecret{Iterations: defaultIterations}
	if text := result.Rows[0][1]; text != nil {
		n, err := strconv.Atoi(string(text))
		if err != nil || n < 1 {
			return RoleSecret{}, errors.New("unexpected scram_iterations")
		}
		found.Iterations = n
	}
	if text := result.Rows[0][0]; text != nil {
		secret, err := scram.ParseSecret(string(text))
		if err != nil {
			return RoleSecret{}, err
		}
		found.Secret = &secret
	}
	return found, nil
}

// explainSecret adds the fix where the server's answer means that the function is not there or not ours to call.
func explainSecret(e *pgconn.PgError) error {
	const undefinedFunction, invalidSchema, insufficientPrivilege = "42883", "3F000", "42501"
	switch e.Code {
	case undefinedFunction, invalidSchema, insufficientPrivilege:
		return fmt.Errorf("%w (run what `pgreplicaproxy sql` prints on the primary)", e)
	}
	return e
}
