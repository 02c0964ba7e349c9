//go:build linux

package main

import (
	"bytes"
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
	limit, err := s.fit()
	if err != nil {
		return "", err
	}
	r := &rig{settings: s}
	r.note("of the %d descriptors that a process may have: %d idle sessions, %d that work, %d hostile connections", limit, s.idle, s.active, s.hostile)
	if err = r.start(ctx); err == nil {
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

// config has a cluster whose servers change their roles, one whose server does not, and the real one. The monitors are patient:
// whatever else the machine does keeps the servers from answering too, and a server that is silent loses its sessions.
func (r *rig) config() string {
	cluster := func(name string, addresses ...string) string {
		text := fmt.Sprintf("cluster %q {\n  allow_authentication = [\"scram-sha-256\", \"trust\"]\n  max_waiting = 5000\n  monitor {\n    password = %q\n    timeout  = \"20s\"\n  }\n", name, monitorPassword)
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

// run loads the program and looks at what becomes of it: a fifth of the time without attack, a fifth under attack, the rest
// under attack while roles change.
func (r *rig) run(ctx context.Context) error {
	before, err := r.settled(ctx)
	if err != nil {
		return err
	}
	descriptors, err := r.program.descriptors()
	if err != nil {
		return err
	}
	crowd := newCrowd(r.dialer)
	clients, err := r.stand(ctx, crowd, before)
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	if err != nil {
		return err
	}
	load, end := context.WithTimeout(ctx, r.load)
	defer end()
	memory := r.watch(load)
	crowd.busy(load, r.active/2, "app", time.Second)
	crowd.busy(load, r.active-r.active/2, "app_replica", time.Second)
	crowd.slow(load, max(1, r.active/100), "app_replica", 50*time.Millisecond)
	r.realSessions(load, crowd, 5)
	if err := r.program.wait(load, func() bool { return r.played() >= int64(len(clients)+r.active) }); err != nil {
		return errors.Join(fmt.Errorf("%d sessions are there: %w", r.played(), err), crowd.err())
	}

	r.measureLogins(load, crowd, "without attack", r.load/5)
	var attacks atomic.Int64
	var siege sync.WaitGroup
	siege.Go(func() { r.dialer.besiege(load, r.hostile, &attacks) })
	r.measureLogins(load, crowd, "under attack", r.load/5)
	changes := r.changeRoles(load)
	r.measureLogins(load, crowd, "under attack, while roles change", r.load)
	siege.Wait()
	crowd.work.Wait()
	r.note("hostile connections: %d; changes of roles: %d; clients that these moved: %d", attacks.Load(), <-changes, crowd.moves)
	memoryErr := <-memory
	lost := 0
	for _, c := range clients { // the idle ones are all still there
		if err := c.work(); err != nil {
			lost++
			crowd.failed(fmt.Errorf("idle client: %w", errors.Join(err, c.untilReady()))) // what it was told before, if anything
		}
	}
	if lost > 0 {
		r.note("idle sessions that were lost: %d; how sessions ended:\n%s", lost, r.program.metrics(ctx, "pgreplicaproxy_sessions_closed_total"))
	}
	for _, c := range clients {
		c.close()
	}
	return errors.Join(crowd.err(), memoryErr, r.logLines(), r.nothingLeft(ctx, descriptors))
}

// played is how many sessions the fake servers have.
func (r *rig) played() int64 {
	return r.one.sessions.Load() + r.other.sessions.Load() + r.idle.sessions.Load()
}

// stand logs the idle clients in, and notes what they cost beyond the program's memory before.
func (r *rig) stand(ctx context.Context, crowd *crowd, before int64) ([]*client, error) {
	began := time.Now()
	clients := crowd.idle(ctx, r.settings.idle)
	took := time.Since(began)
	after, err := r.settled(ctx)
	n := float64(max(1, len(clients)))
	r.note("idle sessions: %d, %.1f KiB each, logged in at %.0f/s", len(clients), float64(after-before)/1024/n, n/took.Seconds())
	return clients, err
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
func (r *rig) measureLogins(ctx context.Context, crowd *crowd, how string, length time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	const loops = 8
	began := time.Now()
	latency := crowd.logins(ctx, loops, "idle")
	r.note("logins %s: %.0f/s, median %v, p99 %v", how, float64(len(latency))/time.Since(began).Seconds(),
		round(percentile(0.5, latency)), round(percentile(0.99, latency)))
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

// changeRoles has the servers change places four times until ctx ends, and then tells how often they did.
func (r *rig) changeRoles(ctx context.Context) <-chan int {
	const times = 4
	deadline, _ := ctx.Deadline()
	interval := time.Until(deadline) / (times + 1)
	done := make(chan int, 1)
	go func() {
		n := 0
		defer func() { done <- n }()
		for n < times {
			select {
			case <-ctx.Done():
				return
			case <-time.After(interval):
			}
			n++
			r.one.become(r.real(n % 2))
			r.other.become(r.real((n + 1) % 2))
		}
	}()
	return done
}

// watch looks at the program's memory until ctx ends, and then returns an error if it has grown after it was warm: more in the
// last third than in the second, beyond what garbage explains.
func (r *rig) watch(ctx context.Context) <-chan error {
	const samples = 60
	interval := r.load / samples
	done := make(chan error, 1)
	go func() {
		var memory []int64
		most := 0
		for {
			select {
			case <-ctx.Done():
				done <- r.judge(memory, most)
				return
			case <-time.After(interval):
			}
			now, err := r.program.memory()
			open, openErr := r.program.descriptors()
			if err = errors.Join(err, openErr); err != nil {
				done <- err
				return
			}
			memory, most = append(memory, now), max(most, open)
		}
	}()
	return done
}

// judge notes what was watched, and says whether memory has grown.
func (r *rig) judge(memory []int64, descriptors int) error {
	third := len(memory) / 3
	if third == 0 {
		return nil // interrupted
	}
	warm, late := highest(memory[third:2*third]), highest(memory[2*third:])
	r.note("memory: %d MiB when warm, %d MiB at the end; descriptors: %d at most", warm>>20, late>>20, descriptors)
	if late > warm+warm/5+(16<<20) {
		return fmt.Errorf("memory grew from %d MiB to %d MiB", warm>>20, late>>20)
	}
	return nil
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
		return open <= descriptors+slack && r.played() == 0
	})
	if err != nil {
		return fmt.Errorf("%d descriptors are open, %d were at the start: %w", open, descriptors, err)
	}
	r.note("nothing was left")
	return nil
}

// logLines notes what the program has logged, and fails if it was too much about those who were refused: each kind has its bound.
func (r *rig) logLines() error {
	text, err := os.ReadFile(r.program.log.Name())
	if err != nil {
		return err
	}
	lines := bytes.Count(text, []byte("\n"))
	refused := bytes.Count(text, []byte(`"msg":"connection refused"`)) + bytes.Count(text, []byte(`"msg":"session refused"`))
	r.note("log: %d lines, %d KiB; %d lines about who was refused", lines, len(text)>>10, refused)
	const kinds = 8
	if most := kinds * (100 + int(r.load.Seconds())); refused > most {
		return fmt.Errorf("%d lines of the log are about who was refused, want %d at most", refused, most)
	}
	return nil
}
