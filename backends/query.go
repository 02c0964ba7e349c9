package backends

import (
	"context"
	"fmt"
	"strconv"

	"github.com/replicon/pgreplicaproxy/policy"
)

// reading is what a server says of itself.
type reading struct {
	role             policy.Role
	systemIdentifier string
	timeline         uint32 // of a primary
	serverVersion    string
	leafHash         [32]byte
}

// roleQuery needs no privilege, and runs on a standby too. The timeline is taken from the name of the current WAL file,
// which changes together with pg_is_in_recovery(): pg_control_checkpoint() goes on telling the old timeline until the
// checkpoint after a promotion has ended, which can take minutes. OFFSET 0 makes the subquery be evaluated once, and
// first.
const roleQuery = `
SELECT r.recovery, s.system_identifier,
       CASE WHEN r.recovery THEN NULL
            ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
       END
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovery OFFSET 0) AS r
CROSS JOIN pg_catalog.pg_control_system() AS s`

// roleStatement is the name of the prepared roleQuery.
const roleStatement = "role"

// ask puts the question and waits for the answer. After an error the session may be over; see over.
func (s *session) ask(ctx context.Context) (reading, error) {
	result := s.pg.ExecPrepared(ctx, roleStatement, nil, nil, nil).Read()
	if result.Err != nil {
		return reading{}, result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != 3 {
		return reading{}, fmt.Errorf("unexpected answer of %d rows", len(result.Rows))
	}
	answer := reading{serverVersion: s.pg.ParameterStatus("server_version"), leafHash: s.leafHash}
	row := result.Rows[0]
	switch string(row[0]) {
	case "t":
		answer.role = policy.Replica
	case "f":
		answer.role = policy.Primary
		timeline, err := strconv.ParseUint(string(row[2]), 10, 32)
		if err != nil {
			return reading{}, fmt.Errorf("unexpected timeline: %w", err)
		}
		answer.timeline = uint32(timeline)
	default:
		return reading{}, fmt.Errorf("pg_is_in_recovery() is %q", row[0])
	}
	answer.systemIdentifier = string(row[1])
	return answer, nil
}
