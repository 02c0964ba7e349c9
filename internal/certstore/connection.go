package certstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Schema creates what is stored in. A store does so itself on first use if it may.
const Schema = `CREATE SCHEMA IF NOT EXISTS pgreplicaproxy;
CREATE TABLE IF NOT EXISTS pgreplicaproxy.certificate_files (
  key text PRIMARY KEY,
  value bytea NOT NULL,
  modified timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS pgreplicaproxy.certificate_locks (
  name text PRIMARY KEY,
  owner text NOT NULL,
  expires timestamptz NOT NULL
);
`

// oneAtATime keeps proxies from making the tables at the same moment, which IF NOT EXISTS does not stand. It holds for the
// transaction that one string of statements is.
const oneAtATime = "SELECT pg_advisory_xact_lock(hashtext('pgreplicaproxy certificates'));\n"

// timeout bounds one operation, connecting included.
const timeout = 10 * time.Second

// Store is a certmagic.Storage. Make one with Open. Its methods may be called concurrently.
type Store struct {
	config *pgconn.Config

	mu   sync.Mutex // one statement at a time
	conn *pgconn.PgConn

	leasing sync.Mutex
	leases  map[string]lease // those held, by name
}

// Open returns a store in the database of a connection string. It does not connect yet; an error means that the connection
// string has a mistake, and does not show it.
func Open(dsn string) (*Store, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		// The error's own text has the connection string in it, without the password at best.
		return nil, errors.New("not a connection string of PostgreSQL")
	}
	config.RuntimeParams["application_name"] = "pgreplicaproxy certificates"
	return &Store{config: config, leases: make(map[string]lease)}, nil
}

// Close gives the connection back. The store may still be used.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_ = s.conn.Close(ctx)
		s.conn = nil
	}
}

// String tells where the store is, without secrets.
func (s *Store) String() string {
	return fmt.Sprintf("database %q on %s", s.config.Database, s.config.Host)
}

// rows are the rows that a statement returned, in text format but for bytea.
type rows [][][]byte

// run runs one statement, making what is stored in first where it is missing. Arguments are strings or []byte.
func (s *Store) run(ctx context.Context, sql string, arguments ...any) (rows, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	result, err := s.exec(ctx, sql, arguments)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (refused.Code == undefinedTable || refused.Code == invalidSchemaName) {
		if _, err := s.conn.Exec(ctx, oneAtATime+Schema).ReadAll(); err != nil {
			return nil, fmt.Errorf("create tables for certificates (pgreplicaproxy sql --certificates prints how): %w", err)
		}
		result, err = s.exec(ctx, sql, arguments)
	}
	if err != nil {
		return nil, fmt.Errorf("certificates in %v: %w", s, err)
	}
	return result, nil
}

// SQLSTATEs of what is not there yet.
const (
	undefinedTable    = "42P01"
	invalidSchemaName = "3F000"
)

// exec runs one statement, on a new connection where there is none or where that one has failed. The caller holds mu.
func (s *Store) exec(ctx context.Context, sql string, arguments []any) (rows, error) {
	if s.conn == nil || s.conn.IsClosed() {
		conn, err := pgconn.ConnectConfig(ctx, s.config.Copy())
		if err != nil {
			return nil, err
		}
		s.conn = conn
	}
	values := make([][]byte, len(arguments))
	formats := make([]int16, len(arguments))
	for i, argument := range arguments {
		switch v := argument.(type) {
		case string:
			values[i] = []byte(v)
		case []byte:
			values[i], formats[i] = append([]byte{}, v...), 1 // binary; nil would be NULL
		}
	}
	result := s.conn.ExecParams(ctx, sql, values, nil, formats, nil).Read()
	return result.Rows, result.Err
}
