//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The roles of the clients and of the monitor, with their passwords at the real servers.
const (
	role, password               = "app", "app-secret"
	monitorRole, monitorPassword = "pgreplicaproxy", "monitor-secret"
)

// rig is all that takes part.
type rig struct {
	settings
	dir     string
	cluster *pgcluster.Cluster
	one     *server // begins as the primary
	other   *server
	idle    *server
	program *program
	dialer  *dialer
	report  strings.Builder
}

// soak does all of it and returns the report. What it measured is in it even if something failed.
func soak(ctx context.Context, s settings) (string, error) {
	if err := s.descriptors(); err != nil {
		return "", err
	}
	r := &rig{settings: s}
	err := r.start(ctx)
	if err == nil {
		err = r.program.explain(r.run(ctx))
	}
	err = errors.Join(err, r.stop())
	if ctx.Err() != nil {
		err = errInterrupted
	}
	return r.report.String(), err
}

func (r *rig) start(ctx context.Context) (err error) {
	if r.dir, err = os.MkdirTemp("", "pgreplicaproxy-soak-"); err != nil {
		return err
	}
	found, err := pgcluster.Find(0)
	if err != nil {
		return err
	}
	if r.cluster, err = pgcluster.Start(ctx, pgcluster.Config{Installation: found, Standbys: 1}); err != nil {
		return err
	}
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD '" + password + "'",
		"CREATE ROLE " + monitorRole + " LOGIN PASSWORD '" + monitorPassword + "'",
		"GRANT pg_monitor TO " + monitorRole,
	} {
		if err := r.cluster.Servers()[0].Exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	for server, real := range map[**server]string{&r.one: r.real(0), &r.other: r.real(1), &r.idle: r.real(0)} {
		if *server, err = startServer(real); err != nil {
			return err
		}
	}
	binary, err := filepath.Abs(r.binary)
	if err != nil {
		return err
	}
	if r.program, err = startProgram(ctx, binary, r.dir, r.config()); err != nil {
		return err
	}
	r.dialer = &dialer{address: r.program.address}
	return nil
}

func (r *rig) stop() error {
	var err error
	if r.program != nil {
		err = r.program.stop()
	}
	for _, s := range []*server{r.one, r.other, r.idle} {
		if s != nil {
			s.stop()
		}
	}
	if r.cluster != nil {
		err = errors.Join(err, r.cluster.Stop(context.Background()))
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

// real is the address of a real server.
func (r *rig) real(i int) string {
	s := r.cluster.Servers()[i]
	return net.JoinHostPort(s.Host, fmt.Sprint(s.Port))
}

// config has a cluster whose servers change their roles, one whose server does not, and the real one.
func (r *rig) config() string {
	cluster := func(name string, addresses ...string) string {
		text := fmt.Sprintf("cluster %q {\n  allow_authentication = [\"scram-sha-256\", \"trust\"]\n  max_waiting = 5000\n  monitor { password = %q }\n", name, monitorPassword)
		for i, address := range addresses {
			text += fmt.Sprintf("  backend \"db%d\" { address = %q }\n", i+1, address)
		}
		return text + "}\n"
	}
	return cluster("main", r.one.address(), r.other.address()) + cluster("idle", r.idle.address()) + cluster("real", r.real(0), r.real(1)) + `
route {
  database = "idle"
  cluster  = "idle"
}
route {
  database = "postgres"
  cluster  = "real"
}
route {
  database_suffix = "_replica"
  cluster         = "main"
  role            = "replica"
}
route { cluster = "main" }
`
}

// note writes a line of the report.
func (r *rig) note(format string, args ...any) { fmt.Fprintf(&r.report, format+"\n", args...) }

// run loads the program and looks at what becomes of it.
func (r *rig) run(ctx context.Context) error {
	crowd := newCrowd(r.dialer)
	before, err := r.settled(ctx)
	if err != nil {
		return err
	}
	descriptors, err := r.program.descriptors()
	if err != nil {
		return err
	}
	clients := crowd.idle(ctx, r.settings.idle)
	defer func() {
		for _, c := range clients {
			_ = c.conn.Close()
		}
	}()
	after, err := r.settled(ctx)
	if err != nil {
		return err
	}
	r.note("idle sessions: %d, %.1f KiB each", len(clients), float64(after-before)/1024/float64(max(1, len(clients))))

	quiet := r.load / 5
	r.measureLogins(ctx, "without attack", quiet)
	load, end := context.WithTimeout(ctx, r.load-quiet)
	defer end()
	crowd.busy(load, r.active/2, "app", time.Second)
	crowd.busy(load, r.active-r.active/2, "app_replica", time.Second)
	crowd.slow(load, max(1, r.active/100), "app_replica", 50*time.Millisecond)
	r.realSessions(load, crowd, 5)
	var attacks atomic.Int64
	var siege sync.WaitGroup
	siege.Go(func() { r.dialer.besiege(load, r.hostile, &attacks) })
	r.measureLogins(load, fmt.Sprintf("under attack by %d hostile connections, %d sessions working", r.hostile, r.active), quiet)
	memoryErr := r.watch(load)
	siege.Wait()
	crowd.work.Wait()
	r.note("hostile connections: %d", attacks.Load())
	r.note("clients that were moved by a change of roles: %d", crowd.moves)
	for _, c := range clients { // the idle ones are all still there
		if err := c.work(); err != nil {
			crowd.failed(fmt.Errorf("idle client: %w", err))
			break
		}
	}
	for _, c := range clients {
		c.close()
	}
	return errors.Join(crowd.err(), memoryErr, r.nothingLeft(ctx, descriptors))
}

// settled returns the program's memory once it has not changed much for a while.
func (r *rig) settled(ctx context.Context) (int64, error) {
	last, err := r.program.memory()
	for range 20 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
		now, err := r.program.memory()
		if err != nil {
			return 0, err
		}
		if diff := now - last; diff < 1<<16 && diff > -1<<16 {
			return now, nil
		}
		last = now
	}
	return last, err
}

// measureLogins notes how fast clients can log in for some time.
func (r *rig) measureLogins(ctx context.Context, how string, length time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	const loops = 8
	crowd := newCrowd(r.dialer)
	crowd.logins(ctx, loops, "idle")
	crowd.work.Wait()
	r.note("logins %s: %.0f/s, median %v, p99 %v", how, float64(len(crowd.latency))/length.Seconds(),
		round(percentile(0.5, crowd.latency)), round(percentile(0.99, crowd.latency)))
	if err := crowd.err(); err != nil {
		r.note("  failed: %v", err)
	}
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// realSessions keeps some sessions with the real servers working.
func (r *rig) realSessions(ctx context.Context, c *crowd, n int) {
	for range n {
		c.work.Go(func() {
			dsn := fmt.Sprintf("postgresql://%s:%s@%s/postgres?sslmode=require", role, password, r.program.address)
			conn, err := pgconn.Connect(context.WithoutCancel(ctx), dsn)
			for err == nil && ctx.Err() == nil {
				_, err = conn.Exec(context.WithoutCancel(ctx), "SELECT count(*) FROM pg_class").ReadAll()
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
			if err != nil {
				c.failed(fmt.Errorf("session with a real server: %w", err))
				return
			}
			_ = conn.Close(context.WithoutCancel(ctx))
		})
	}
}

// watch changes the roles now and then until ctx ends, and fails if the program's memory has grown after it was warm: more in
// the last third than in the second, beyond what garbage explains.
func (r *rig) watch(ctx context.Context) error {
	const samples = 60
	deadline, _ := ctx.Deadline()
	interval := time.Until(deadline) / samples
	var memory []int64
	roles := 0
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			if len(memory) < samples/2 {
				return nil // interrupted
			}
			third := len(memory) / 3
			warm, late := highest(memory[third:2*third]), highest(memory[2*third:])
			r.note("memory: %d MiB when warm, %d MiB at the end; the roles changed %d times", warm>>20, late>>20, roles)
			if late > warm+warm/5+(16<<20) {
				return fmt.Errorf("memory grew from %d MiB to %d MiB", warm>>20, late>>20)
			}
			return nil
		case <-time.After(interval):
		}
		now, err := r.program.memory()
		if err != nil {
			return err
		}
		memory = append(memory, now)
		if i%(samples/4) == samples/8 {
			roles++
			primary, standby := r.real(roles%2), r.real((roles+1)%2)
			r.one.become(primary)
			r.other.become(standby)
		}
	}
}

func highest(list []int64) int64 {
	most := int64(0)
	for _, n := range list {
		most = max(most, n)
	}
	return most
}

// nothingLeft waits until the program and the servers have let go of everything.
func (r *rig) nothingLeft(ctx context.Context, descriptors int) error {
	const slack = 16 // of the monitors, which come and go
	open := 0
	err := r.program.wait(ctx, func() bool {
		open, _ = r.program.descriptors()
		return open <= descriptors+slack && r.one.sessions.Load()+r.other.sessions.Load()+r.idle.sessions.Load() == 0
	})
	if err != nil {
		return fmt.Errorf("%d descriptors are open, %d were at the start: %w", open, descriptors, err)
	}
	r.note("nothing was left")
	return nil
}
