package e2e

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// attempts are many clients that connect at once.
type attempts struct {
	work sync.WaitGroup
	mu   sync.Mutex
	open []*pgconn.PgConn
	// early are the errors of those that were turned away, by SQLSTATE.
	refused map[string]int
}

// connectMany starts so many clients, and returns at once.
func connectMany(t *testing.T, ctx context.Context, dsn string, n int) *attempts {
	t.Helper()
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return connectAll(ctx, config, n)
}

// connectAll is connectMany for clients that are configured.
func connectAll(ctx context.Context, config *pgconn.Config, n int) *attempts {
	a := &attempts{refused: make(map[string]int)}
	for range n {
		a.work.Go(func() {
			conn, err := pgconn.ConnectConfig(ctx, config.Copy())
			a.mu.Lock()
			defer a.mu.Unlock()
			var response *pgconn.PgError
			switch {
			case err == nil:
				a.open = append(a.open, conn)
			case errors.As(err, &response):
				a.refused[response.Code]++
			default:
				a.refused[err.Error()]++
			}
		})
	}
	return a
}

// count returns how many are connected and how many were turned away so far.
func (a *attempts) count() (open, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.refused {
		refused += n
	}
	return len(a.open), refused
}

func (a *attempts) close() {
	a.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, conn := range a.open {
		_ = conn.Close(ctx)
	}
}

// Many clients come while there is no primary. As many wait as may, and the rest are told at once; when it is back, those who
// waited are served, a few at a time, so that it is never asked for more than it has.
func TestFault29Burst(t *testing.T) {
	r := startServers(t, faultSetup{standbys: 1, async: true, settings: map[string]string{"max_connections": "60"}})
	// One address gets no more places than are left for others: half of them.
	const waiting, all = 80, 300
	r.serve(faultSetup{lines: []string{"hold_primary = \"60s\"", "max_waiting = 80", "max_dials = 4"}})
	r.load = startMix(t, r.p, r.db1, map[clientKind]int{reading: 2})
	ctx, seen := testContext(t), r.p.logged()
	r.must(r.db1.KillAll())
	r.p.waitChange(seen, "db1", "unknown", "down")
	burst := connectMany(t, ctx, r.p.dsn("app"), all)
	r.load.wait("all but those who wait are turned away", func() bool {
		open, refused := burst.count()
		return open == 0 && refused == all-waiting/2
	})
	r.must(r.db1.Start(ctx))
	burst.work.Wait()
	if open, _ := burst.count(); open != waiting/2 {
		t.Errorf("%d of %d that waited were served: %v", open, waiting/2, burst.refused)
	}
	for code := range burst.refused {
		if !slices.Contains([]string{"53300", "57P03"}, code) {
			t.Errorf("clients were told %q", code)
		}
	}
	burst.close()
	r.finish(r.db1)
}

// A standby comes back that has no session at all, while the other one has many. It is not overrun with all that is new, but
// gets to its share in slow_start, after which it gets all that is new for a while; the sessions that there are stay where they
// are.
func TestFault30ReplicaReturns(t *testing.T) {
	r := startServers(t, faultSetup{})
	r.serve(faultSetup{lines: []string{"slow_start = \"1h\""}})
	r.load = startMix(t, r.p, r.db1, map[clientKind]int{writing: 2, reading: 4})
	ctx := testContext(t)
	r.must(r.db3.KillAll())
	before := connectMany(t, ctx, r.p.dsn("app_replica"), 60)
	r.load.wait("the sessions are open", func() bool { open, _ := before.count(); return open == 60 })
	at, seen := r.load.now(), r.p.logged()
	r.must(r.db3.Start(ctx))
	r.p.waitChange(seen, "db3", "replica", "up")
	if early := r.newOn("app_replica", r.db3, 20); early > 5 {
		t.Errorf("%d of the first 20 sessions came to the standby that is back", early)
	}
	r.reconfigure("slow_start = \"1h\"", "slow_start = \"0s\"")
	if late := r.newOn("app_replica", r.db3, 10); late < 10 {
		t.Errorf("%d of 10 sessions came to the emptier standby after its slow start", late)
	}
	r.wantUndisturbed(at, reading)
	if open, refused := before.count(); open != 60 || refused != 0 {
		t.Errorf("%d sessions are left, %d were refused", open, refused)
	}
	before.close()
	r.finish(r.db1)
}

// newOn opens so many sessions and counts those that come to a server; it closes them together.
func (r *faultRig) newOn(database string, s *pgcluster.Server, sessions int) (n int) {
	r.t.Helper()
	for range sessions {
		conn := connect(r.t, r.p.dsn(database))
		defer func() { _ = conn.Close(testContext(r.t)) }()
		if portOf(r.t, conn) == port(s) {
			n++
		}
	}
	return n
}
