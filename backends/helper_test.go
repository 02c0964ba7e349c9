package backends

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/policy"
)

// patience bounds every wait of a test. It is no expectation: on a busy machine things take their time.
const patience = 30 * time.Second

// noLeaks fails the test if goroutines are left when all its other clean-ups are done. It has to be called first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// serve runs script for each connection to a listener on loopback, until the test ends, and returns the address. The
// script need not close.
func serve(t *testing.T, script func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, ln, script)
	return ln.Addr().String()
}

func accept(t *testing.T, ln net.Listener, script func(net.Conn)) {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
			running.Go(func() {
				defer stop()
				defer conn.Close()
				script(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		running.Wait()
	})
}

// target is a server on loopback.
func target(address string, mode TLSMode) Target {
	return Target{Cluster: "main", Name: "db1", Network: "tcp", Address: address, TLS: mode, Weight: 1}
}

// readN reads exactly n bytes, or returns what came.
func readN(r io.Reader, n int) []byte {
	buf := make([]byte, n)
	n, _ = io.ReadFull(r, buf)
	return buf[:n]
}

// within returns a context that ends after the test's patience.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// journal collects the log of a monitor.
type journal struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines.Write(p)
}

// await waits until there are n lines of a server, and returns them: a snapshot is published before it is logged.
func (j *journal) await(t *testing.T, backend string, n int) []map[string]any {
	t.Helper()
	for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if list := j.entries(t, backend); len(list) >= n || time.Now().After(over) {
			if len(list) != n {
				t.Fatalf("%d lines of %s, want %d: %v", len(list), backend, n, list)
			}
			return list
		}
	}
}

// awaitLast waits until the last line of a server has these attributes.
func (j *journal) awaitLast(t *testing.T, backend string, want map[string]any) {
	t.Helper()
	for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		list := j.entries(t, backend)
		found := len(list) > 0
		for key, value := range want {
			found = found && list[len(list)-1][key] == value
		}
		if found {
			return
		}
		if time.Now().After(over) {
			t.Fatalf("the last line of %s is not %v: %v", backend, want, list)
		}
	}
}

// entries returns what was logged of a server.
func (j *journal) entries(t *testing.T, backend string) []map[string]any {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []map[string]any
	for line := range strings.Lines(j.lines.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry["backend"] == backend {
			list = append(list, entry)
		}
	}
	return list
}

// monitor runs a monitor for the length of the test. What the configuration leaves out is filled in.
func monitor(t *testing.T, config MonitorConfig) (*Monitor, *journal) {
	t.Helper()
	log := new(journal)
	config.Cluster = "main"
	if config.Credentials == (Credentials{}) {
		config.Credentials = testCredentials
	}
	config.Logger = slog.New(slog.NewJSONHandler(log, nil))
	m := NewMonitor(config)
	run(t, m)
	return m, log
}

// run runs m for the length of the test.
func run(t *testing.T, m *Monitor) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Run does not return")
		}
	})
}

// await waits for a snapshot that is as wanted.
func await(t *testing.T, m *Monitor, what string, wanted func(*Snapshot) bool) *Snapshot {
	t.Helper()
	over := time.After(patience)
	for {
		snapshot := m.Snapshot()
		if wanted(snapshot) {
			return snapshot
		}
		select {
		case <-snapshot.Changed():
		case <-over:
			t.Fatalf("it never came to be that %s; last: %+v", what, snapshot.States)
		}
	}
}

// awaitServer waits until a server is of a role and status.
func awaitServer(t *testing.T, m *Monitor, name string, role policy.Role, status Status) State {
	t.Helper()
	s := await(t, m, name+" is "+role.String()+", "+status.String(), func(s *Snapshot) bool {
		st, _ := s.State(name)
		return st.Role == role && st.Status == status
	})
	st, _ := s.State(name)
	return st
}

// has reports whether a line with that message was logged.
func (j *journal) has(message string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.lines.String(), `"msg":"`+message+`"`)
}

// clock is the time plus what a test adds to it.
type clock struct{ ahead atomic.Int64 }

func newClock() *clock { return new(clock) }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }
