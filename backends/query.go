package backends

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/policy"
)

// reading is what a server says of itself. Positions are LSNs as numbers, zero where they are not known.
type reading struct {
	role             policy.Role
	systemIdentifier string
	// timeline is that of a primary, or the one that a standby receives now; zero for a standby that receives none, and
	// for one that does not tell (it takes pg_monitor).
	timeline uint32
	// written is where a primary writes. received and replayed are a standby's.
	written, received, replayed uint64
	paused                      bool
	// delay is recovery_min_apply_delay.
	delay time.Duration
	// receiving is a standby that has a WAL receiver; receiver is its status, upstream the host:port it is connected to, both
	// empty without pg_monitor.
	receiving          bool
	receiver, upstream string
	// senders counts the standbys that are connected to this server.
	senders int
	// readOnly is a primary whose sessions begin read-only (default_transaction_read_only).
	readOnly bool
	started  time.Time

	serverVersion string
	leafHash      [32]byte
	// peer is the address at which the monitor reached the server, empty for a unix socket.
	peer string
}

// roleQuery needs no privilege, and runs on a standby too; what takes pg_monitor is NULL without it (status, timeline and sender
// of the WAL receiver). A primary's timeline is taken from the name of the current WAL file, which changes together with
// pg_is_in_recovery(): pg_control_checkpoint() goes on telling the old timeline until the checkpoint after a promotion has
// ended, which can take minutes. OFFSET 0 makes the subquery be evaluated once, and first; a promotion right after it makes
// pg_is_wal_replay_paused() fail with 55000. The view pg_stat_replication must not be in it: it reads pg_authid, so a lock on that
// would make the server look dead, and not only closed to logins.
const roleQuery = `
SELECT r.recovery, s.system_identifier,
       CASE WHEN r.recovery THEN w.received_tli::bigint
            ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
       END,
       CASE WHEN NOT r.recovery THEN pg_catalog.pg_current_wal_lsn() - '0/0'::pg_catalog.pg_lsn END,
       CASE WHEN r.recovery THEN pg_catalog.pg_last_wal_receive_lsn() - '0/0'::pg_catalog.pg_lsn END,
       CASE WHEN r.recovery THEN pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn END,
       CASE WHEN r.recovery THEN pg_catalog.pg_is_wal_replay_paused() END,
       CASE WHEN r.recovery
            THEN (extract(epoch FROM pg_catalog.current_setting('recovery_min_apply_delay')::interval) * 1000)::bigint
       END,
       w.pid IS NOT NULL, w.status, w.sender_host, w.sender_port,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_get_wal_senders()),
       NOT r.recovery AND pg_catalog.current_setting('transaction_read_only') = 'on',
       (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovery OFFSET 0) AS r
CROSS JOIN pg_catalog.pg_control_system() AS s
LEFT JOIN pg_catalog.pg_stat_wal_receiver AS w ON true`

// roleColumns is how many columns roleQuery has.
const roleColumns = 15

// roleStatement is the name of the prepared roleQuery.
const roleStatement = "role"

// ask puts the question and waits for the answer. After an error the session may be over; see over. A standby that was
// promoted in the middle of its answer is asked again: that happens once in the life of a recovery.
func (s *session) ask(ctx context.Context) (reading, error) {
	result := s.pg.ExecPrepared(ctx, roleStatement, nil, nil, nil).Read()
	var server *pgconn.PgError
	if errors.As(result.Err, &server) && server.Code == "55000" { // object_not_in_prerequisite_state
		result = s.pg.ExecPrepared(ctx, roleStatement, nil, nil, nil).Read()
	}
	if result.Err != nil {
		return reading{}, result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != roleColumns {
		return reading{}, fmt.Errorf("unexpected answer of %d rows", len(result.Rows))
	}
	answer, err := parseReading(result.Rows[0])
	if err != nil {
		return reading{}, fmt.Errorf("unexpected answer: %w", err)
	}
	answer.serverVersion, answer.leafHash = s.pg.ParameterStatus("server_version"), s.leafHash
	if address := s.conn.RemoteAddr(); address != nil && address.Network() == "tcp" {
		answer.peer = address.String()
	}
	return answer, nil
}

// parseReading reads one row of roleQuery, which comes as text.
func parseReading(values [][]byte) (reading, error) {
	row := row{values: values}
	var r reading
	switch flag := row.text(); flag {
	case "t":
		r.role = policy.Replica
	case "f":
		r.role = policy.Primary
	default:
		return reading{}, fmt.Errorf("pg_is_in_recovery() is %q", flag)
	}
	r.systemIdentifier = row.text()
	r.timeline = uint32(row.number(32))
	r.written, r.received, r.replayed = row.number(64), row.number(64), row.number(64)
	r.paused = row.flag()
	r.delay = time.Duration(row.number(42)) * time.Millisecond
	r.receiving, r.receiver = row.flag(), row.text()
	if host, port := row.text(), row.text(); host != "" {
		r.upstream = net.JoinHostPort(host, port)
	}
	r.senders = int(row.number(31))
	r.readOnly = row.flag()
	r.started = time.UnixMicro(int64(row.number(62)))
	if row.err == nil && (r.systemIdentifier == "" || r.role == policy.Primary && r.timeline == 0) {
		row.err = errors.New("no system identifier or timeline")
	}
	return r, row.err
}

// row reads one value after the other. NULL is the zero value. The first error stays.
type row struct {
	values [][]byte
	next   int
	err    error
}

func (r *row) text() string {
	r.next++
	return string(r.values[r.next-1])
}

func (r *row) flag() bool { return r.text() == "t" }

func (r *row) number(bits int) uint64 {
	s := r.text()
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("column %d: %w", r.next, err)
	}
	return n
}
