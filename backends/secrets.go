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
	// expired, not allowed to log in, or a superuser.
	Secret *scram.Secret
	// Iterations is what the server would give a new secret (scram_iterations), for an answer to roles without one.
	Iterations int
}

// Secrets reads SCRAM secrets from the servers of one cluster, with the monitor's credentials, over one connection to each
// server that carries nothing else: no word of a client reaches its session but the name of a role, as a parameter. Its
// methods may be called from anywhere.
type Secrets struct {
	readers map[string]*secretReader
}

// NewSecrets returns the store of a cluster. It connects when it is first asked.
func NewSecrets(config MonitorConfig) *Secrets {
	s := &Secrets{readers: make(map[string]*secretReader)}
	timeout := orDefault(config.Timeout, DefaultTimeout)
	credentials := config.Credentials
	for _, t := range config.Targets {
		s.readers[t.Name] = &secretReader{
			turn: make(chan struct{}, 1), cache: make(map[string]cachedSecret),
			logIn: func(ctx context.Context) (*session, error) { return logIn(ctx, t, credentials, timeout) },
		}
	}
	return s
}

// Lookup returns what a server has on file for a role, at most maxAge old. An error says that the server could not be
// asked, or that the function which answers is missing there.
func (s *Secrets) Lookup(ctx context.Context, backend, role string, maxAge time.Duration) (RoleSecret, error) {
	r := s.readers[backend]
	if r == nil {
		return RoleSecret{}, fmt.Errorf("read secret: no server %q", backend)
	}
	if found, ok := r.cached(role, maxAge); ok {
		return found, nil
	}
	found, err := r.read(ctx, role)
	if err != nil {
		return RoleSecret{}, fmt.Errorf("read secret on %s: %w", backend, err)
	}
	return found, nil
}

// Forget drops what is cached of a role on a server, because the server was seen to have changed it.
func (s *Secrets) Forget(backend, role string) {
	if r := s.readers[backend]; r != nil {
		r.mu.Lock()
		delete(r.cache, role)
		r.mu.Unlock()
	}
}

// Close ends the connections. Nothing may be looked up afterwards.
func (s *Secrets) Close() {
	for _, r := range s.readers {
		r.turn <- struct{}{} // for good
		r.hangUp()
	}
}

// maxCached bounds what strangers can make a server's cache hold by asking for roles.
const maxCached = 4096

// cachedSecret is an answer and when it was given.
type cachedSecret struct {
	RoleSecret
	at time.Time
}

// secretReader asks one server.
type secretReader struct {
	logIn func(context.Context) (*session, error)
	// turn is held by whoever uses the session.
	turn    chan struct{}
	session *session

	mu    sync.Mutex
	cache map[string]cachedSecret
}

func (r *secretReader) cached(role string, maxAge time.Duration) (RoleSecret, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.cache[role]
	return c.RoleSecret, ok && time.Since(c.at) < maxAge
}

func (r *secretReader) remember(role string, found RoleSecret) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cache) >= maxCached {
		for other := range r.cache { // any one: map order is random
			delete(r.cache, other)
			break
		}
	}
	r.cache[role] = cachedSecret{found, time.Now()}
}

// secretQuery calls the function that `pgreplicaproxy sql` prints.
const secretQuery = `SELECT pgreplicaproxy.scram_secret($1), pg_catalog.current_setting('scram_iterations', true)`

// defaultIterations is what servers before 16 use, which have no scram_iterations.
const defaultIterations = 4096

// read asks the server, once more over a new connection if the old one turns out to be gone.
func (r *secretReader) read(ctx context.Context, role string) (RoleSecret, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return RoleSecret{}, ctx.Err()
	}
	fresh := r.session == nil
	for {
		if r.session == nil {
			session, err := r.logIn(ctx)
			if err != nil {
				return RoleSecret{}, err
			}
			r.session = session
		}
		result := r.session.pg.ExecParams(ctx, secretQuery, [][]byte{[]byte(role)}, nil, nil, nil).Read()
		if result.Err == nil {
			found, err := secretOf(result)
			if err == nil {
				r.remember(role, found)
			}
			return found, err
		}
		var server *pgconn.PgError
		if errors.As(result.Err, &server) && !r.session.over() {
			return RoleSecret{}, explainSecret(server)
		}
		r.hangUp()
		if fresh || ctx.Err() != nil {
			return RoleSecret{}, result.Err
		}
		fresh = true
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
