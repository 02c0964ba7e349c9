package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The primary and its standbys cannot reach each other, and the program reaches all of them. Writes go on, and the standbys,
// which fall behind, get no new session. Where the operator wants a primary to have a standby, writes stop instead: on the
// other side of the partition there may be another primary by then.
func TestFault09Partition(t *testing.T) {
	for name, lines := range map[string][]string{"alone": nil, "deserted": {"min_standbys_for_write = 1"}} {
		t.Run(name, func(t *testing.T) {
			r := startServers(t, faultSetup{async: true, settings: map[string]string{"wal_sender_timeout": "1s", "wal_receiver_timeout": "1s"}})
			way := startLine(t, r.db1)
			for _, s := range []*pgcluster.Server{r.db2, r.db3} {
				r.replicateThrough(s, way)
			}
			r.serve(faultSetup{lines: append(lines, "max_lag = \"1MB\"")})
			r.load = startMix(t, r.p, r.db1, map[clientKind]int{writing: 8, idling: 4, reading: 4})
			ctx, at, seen := testContext(t), r.load.now(), r.p.logged()
			way.set(lineFault{silent: true})
			if lines != nil {
				r.p.waitChange(seen, "db1", "unknown", "deserted")
				r.fenced(r.db1, at, silenceGoal)
			} else {
				r.must(r.db1.Exec(ctx, "postgres", "CREATE TABLE bulk AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)"))
				r.waitNowhere("app_replica")
				r.wantUndisturbed(at, writing)
			}
			r.wantUndisturbed(at, reading)
			way.set(lineFault{})
			r.load.waitAll(r.db1)
			r.waitServed("app_replica")
			r.finish(r.db1)
		})
	}
}

// waitNowhere waits until new sessions find no server.
func (r *faultRig) waitNowhere(database string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgconn.Connect(testContext(r.t), r.p.dsn(database))
		if err != nil {
			checkState(r.t, err, "57P03")
			return
		}
		_ = conn.Close(testContext(r.t))
		if time.Now().After(deadline) {
			r.t.Fatalf("sessions of %s are still served", database)
		}
	}
}

// waitServed waits until new sessions find a server.
func (r *faultRig) waitServed(database string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgconn.Connect(testContext(r.t), r.p.dsn(database))
		if err == nil {
			_ = conn.Close(testContext(r.t))
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("sessions of %s are not served: %v", database, err)
		}
	}
}

// replicateThrough makes a standby follow its primary by a way.
func (r *faultRig) replicateThrough(s *pgcluster.Server, way *line) {
	r.t.Helper()
	info := fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s application_name=%s", localPortOf(way.address),
		pgcluster.ReplicationName, r.c.ReplicationPassword, s.Name)
	r.configure(s, "primary_conninfo", info)
	waitTrue(r.t, s, fmt.Sprintf("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = %d)", localPortOf(way.address)))
}
