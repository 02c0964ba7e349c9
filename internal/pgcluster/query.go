package pgcluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// Conn connects to a database as the superuser, over the unix socket. The caller closes the connection. An error of the
// server is a *pgconn.PgError.
func (s *Server) Conn(ctx context.Context, database string) (*pgconn.PgConn, error) {
	// What the environment says about connections (PGTARGETSESSIONATTRS and the rest) is meant for others, but pgconn
	// reads it where the string is silent.
	config, err := pgconn.ParseConfig("user=" + SuperuserName + " passfile='' sslmode=disable sslcertmode=disable " +
		"target_session_attrs=any channel_binding=disable require_auth='' connect_timeout=0 " +
		"min_protocol_version=3.0 max_protocol_version=3.0")
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.Name, err)
	}
	config.Host, config.Port, config.Database = s.SocketDir, uint16(s.Port), database
	config.Password = ""
	config.Fallbacks = nil
	config.RuntimeParams = map[string]string{"application_name": "pgcluster"}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.Name, err)
	}
	return conn, nil
}

// Exec runs SQL as the superuser. Several commands separated by semicolons run in one transaction, as in any simple
// query (manual, "Multiple Statements in a Simple Query"); CREATE DATABASE must stand alone.
func (s *Server) Exec(ctx context.Context, database, sql string) error {
	_, err := s.query(ctx, database, sql)
	return err
}

// QueryString runs SQL as the superuser and returns the first column of the first row as text; NULL is "". No row at
// all is an error.
func (s *Server) QueryString(ctx context.Context, database, sql string) (string, error) {
	results, err := s.query(ctx, database, sql)
	if err != nil {
		return "", err
	}
	return firstValue(results)
}

// query runs SQL on a connection of its own.
func (s *Server) query(ctx context.Context, database, sql string) (_ []*pgconn.Result, err error) {
	conn, err := s.Conn(ctx, database)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", s.Name, err)
	}
	return results, nil
}

// firstValue returns the first column of the first row.
func firstValue(results []*pgconn.Result) (string, error) {
	for _, result := range results {
		if len(result.Rows) > 0 && len(result.Rows[0]) > 0 {
			return string(result.Rows[0][0]), nil
		}
	}
	return "", errors.New("query returned no row")
}

// await runs a query that returns one boolean until that is true. It fails when the context ends or the server exits;
// the error then holds what the server logged last.
func (s *Server) await(ctx context.Context, what, sql string) error {
	p, err := s.running()
	if err != nil {
		return fmt.Errorf("wait until %s: %w", what, err)
	}
	var last error
	err = poll(ctx, func() (bool, error) {
		if !p.alive() {
			return false, fmt.Errorf("the server ended: %s", p.status)
		}
		var value string
		value, last = s.QueryString(ctx, "postgres", sql)
		return last == nil && value == "t", nil
	})
	if err != nil {
		return fmt.Errorf("wait until %s: %w", what, s.explain(errors.Join(err, last)))
	}
	return nil
}
