package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// rotation is a password that changes, and who has logged in with it.
type rotation struct {
	mu       sync.Mutex
	password string
	number   int // odd while it changes
	logins   map[string]int
	more     chan struct{} // closed and renewed at every login
}

func (r *rotation) now() (password string, number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.password, r.number
}

// begin starts a change, end ends it.
func (r *rotation) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
}

func (r *rotation) end(password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.password, r.logins = password, make(map[string]int)
	r.number++
}

// count notes that a worker has logged in with the password of that number.
func (r *rotation) count(worker string, number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number == r.number {
		r.logins[worker]++
		close(r.more)
		r.more = make(chan struct{})
	}
}

// wait waits until that many workers have logged in twice with the password of the moment.
func (r *rotation) wait(ctx context.Context, workers int) error {
	for {
		r.mu.Lock()
		ready, more := 0, r.more
		for _, n := range r.logins {
			if n >= 2 {
				ready++
			}
		}
		r.mu.Unlock()
		if ready == workers {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d workers have logged in twice: %w", ready, workers, ctx.Err())
		}
	}
}

// work logs in again and again with the password of the moment. One failure may follow a change, but not a second one.
func (r *rotation) work(ctx context.Context, t *testing.T, name string, dsn func(password string) string) {
	failed := -1 // the number of the password that the last login failed with
	for ctx.Err() == nil {
		password, number := r.now()
		conn, err := pgconn.Connect(ctx, dsn(password))
		if err == nil {
			_ = conn.Close(ctx)
			r.count(name, number)
			failed = -1
			continue
		}
		_, after := r.now()
		if ctx.Err() != nil || after != number || number%2 == 1 {
			continue
		}
		if failed == number {
			t.Errorf("%s: the right password failed for the second time: %v", name, err)
		}
		failed = number
	}
}

func loginOnce(ctx context.Context, dsn string) error {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// A password changes again and again under logins with the password of the moment, to the primary and to the standbys. None
// with the right one fails twice.
func TestPassthroughRotation(t *testing.T) {
	const rounds, each = 12, 3
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := startCluster(t, pgcluster.Config{Installation: installation(t, version), Standbys: 2, TLS: serverCertificate})
			installSecretFunction(t, c)
			p := serve(t, listenHCL+passthroughHCL(t, c))
			r := &rotation{password: appPassword, logins: make(map[string]int), more: make(chan struct{})}
			ctx, cancel := context.WithCancel(testContext(t))
			var workers sync.WaitGroup
			defer workers.Wait()
			defer cancel()
			for _, database := range []string{"app", "app_replica"} {
				dsn := p.dsn(database)
				for i := range each {
					workers.Go(func() {
						r.work(ctx, t, fmt.Sprintf("%s %d", database, i), func(password string) string { return asUser(dsn, appUser, password) })
					})
				}
			}
			for i := range rounds {
				if err := r.wait(ctx, 2*each); err != nil {
					t.Fatal(err)
				}
				password := fmt.Sprintf("secret-%d", i)
				r.begin()
				changePassword(t, c, password)
				r.end(password)
			}
			if err := r.wait(ctx, 2*each); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// changePassword changes that of role app, on every server.
func changePassword(t *testing.T, c *pgcluster.Cluster, password string) {
	t.Helper()
	primary := c.Servers()[0]
	if err := primary.Exec(testContext(t), "postgres", "ALTER ROLE "+appUser+" PASSWORD '"+password+"'"); err != nil {
		t.Fatal(err)
	}
	for _, standby := range c.Servers()[1:] {
		if err := standby.WaitReplay(testContext(t), primary); err != nil {
			t.Fatal(err)
		}
	}
}

// A standby that lags has the old password until it has replayed the change, as it has for clients without the program: the
// old one still logs in there, the new one does not yet. On the primary it is the other way round.
func TestPassthroughLaggingStandby(t *testing.T) {
	const changed = "another-secret"
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := startCluster(t, pgcluster.Config{Installation: installation(t, version), Standbys: 1, TLS: serverCertificate})
			installSecretFunction(t, c)
			p := serve(t, listenHCL+passthroughHCL(t, c))
			primary, standby, ctx := c.Servers()[0], c.Servers()[1], testContext(t)
			old := map[string]string{"app": p.dsn("app"), "app_replica": p.dsn("app_replica")}
			for _, dsn := range old { // what is remembered of before
				connect(t, dsn)
			}
			if err := standby.Exec(ctx, "postgres", "SELECT pg_wal_replay_pause()"); err != nil {
				t.Fatal(err)
			}
			waitTrue(t, standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
			if err := primary.Exec(ctx, "postgres", "ALTER ROLE app PASSWORD '"+changed+"'"); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				checkOneRetry(t, asUser(old["app"], appUser, changed))
				checkState(t, connectError(t, old["app"]), "28P01")
				connect(t, old["app_replica"])
				checkState(t, connectError(t, asUser(old["app_replica"], appUser, changed)), "28P01")
			}
			if err := standby.Exec(ctx, "postgres", "SELECT pg_wal_replay_resume()"); err != nil {
				t.Fatal(err)
			}
			if err := standby.WaitReplay(ctx, primary); err != nil {
				t.Fatal(err)
			}
			checkState(t, connectError(t, old["app_replica"]), "57P03") // remembered, and noticed by what the standby says
			checkState(t, connectError(t, old["app_replica"]), "28P01")
			checkOneRetry(t, asUser(old["app_replica"], appUser, changed))
		})
	}
}

// checkOneRetry logs in, for the second time at the latest, and is told to retry if the first one fails.
func checkOneRetry(t *testing.T, dsn string) {
	t.Helper()
	err := loginOnce(testContext(t), dsn)
	if err == nil {
		return
	}
	checkState(t, err, "57P03")
	if err := loginOnce(testContext(t), dsn); err != nil {
		t.Errorf("the right password failed for the second time: %v", err)
	}
}

// A server that does not answer costs no login the whole of its time: the secret comes from another one.
func TestPassthroughSilentServer(t *testing.T) {
	c := startCluster(t, pgcluster.Config{Installation: installation(t, versions[0]), Standbys: 2, TLS: serverCertificate})
	installSecretFunction(t, c)
	p := serve(t, "login_timeout = \"10m\"\n"+listenHCL+passthroughHCL(t, c))
	connect(t, p.dsn("app_replica"))
	frozen := c.Servers()[1]
	if err := frozen.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := frozen.Thaw(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(testContext(t), patience)
	defer cancel()
	for i := range 6 { // more than a cache would hide
		told := loginOnce(ctx, asUser(p.dsn("app_replica"), fmt.Sprintf("nobody%d", i), "wrong"))
		checkState(t, told, "28P01")
	}
	if err := loginOnce(ctx, p.dsn("app_replica")); err != nil {
		t.Error(err)
	}
}
