package e2e

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// noticeClients makes servers look, in the middle of a query, whether its client is still there. A program that was killed, or cannot
// reach the server, can cancel nothing: without this, what its sessions were busy with goes on.
var noticeClients = map[string]string{"client_connection_check_interval": "500ms"}

// The program itself ends, in order and by SIGKILL, under load. Its clients are told, or see their connections end, nothing is
// left on the servers, and once it is back so is the load: on the right servers, evenly.
func TestFault28ProxyEnds(t *testing.T) {
	r := startFault(t, faultSetup{settings: noticeClients})
	at := r.load.now()
	r.restart(syscall.SIGTERM)
	for _, ended := range r.load.endings(r.db1, at) {
		if response := (*pgconn.PgError)(nil); !errors.As(ended.err, &response) || response.Code != "57P01" {
			t.Errorf("a %s session ended with %v, want SQLSTATE 57P01", ended.kind, ended.err)
		}
	}
	r.load.waitAll(r.db1)
	r.restart(os.Kill)
	r.load.waitAll(r.db1)
	r.wantEven(long(100, 200))
	r.finish(r.db1)
}

// wantEven opens many sessions at once and expects them to be shared by the two standbys, but for a fifth.
func (r *faultRig) wantEven(sessions int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var mu sync.Mutex
	var work sync.WaitGroup
	count := make(map[string]int)
	var open []*pgconn.PgConn
	dsn := r.p.dsn("app_replica")
	for range sessions {
		work.Go(func() {
			conn, err := pgconn.Connect(ctx, dsn)
			if err != nil {
				r.t.Error(err)
				return
			}
			server, err := one(conn.Exec(ctx, "SELECT current_setting('port')"))
			mu.Lock()
			defer mu.Unlock()
			open, count[server] = append(open, conn), count[server]+1
			if err != nil {
				r.t.Error(err)
			}
		})
	}
	work.Wait()
	for _, conn := range open {
		_ = conn.Close(ctx)
	}
	half := sessions / 2
	if n := count[port(r.db2)]; n < half-half/5 || n > half+half/5 {
		r.t.Errorf("%d of %d sessions are on db2, want half of them, give or take a fifth", n, sessions)
	}
}

// The program itself is at a halt for longer than it gives a server to answer, as it is when its machine is suspended or starved. What
// it missed meanwhile it does not hold against anybody: no session ends, and no server has changed.
func TestFault28ProxyHalts(t *testing.T) {
	r := startFault(t, faultSetup{})
	at, seen := r.load.now(), r.p.logged()
	for range long(1, 5) {
		r.p.signal(syscall.SIGSTOP)
		time.Sleep(5 * time.Second) // that is the fault
		r.p.signal(syscall.SIGCONT)
		r.load.waitAll(r.db1)
	}
	for _, s := range r.c.Servers() {
		for _, ended := range r.load.endings(s, at) {
			t.Errorf("a %s session on %s ended: %v", ended.kind, s.Name, ended.err)
		}
		for _, change := range r.p.changes(seen, s.Name) {
			t.Errorf("the log says %v", change)
		}
	}
	r.finish(r.db1)
}
