package certstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

const patience = time.Minute

// server is the database of all tests.
var server *pgcluster.Server

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	found, err := pgcluster.Find(0, os.Getenv("PGREPLICAPROXY_NPM_PG"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "needs PostgreSQL:", err)
		if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
			return 1
		}
		return 0
	}
	cluster, err := pgcluster.Start(context.Background(), pgcluster.Config{Installation: found})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = cluster.Stop(context.Background()) }()
	server = cluster.Servers()[0]
	return m.Run()
}

// within bounds one test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// database makes one for the test and returns its connection string.
func database(t *testing.T) (name, dsn string) {
	t.Helper()
	name = strings.ToLower(t.Name())
	if err := server.Exec(within(t), "postgres", "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Exec(context.Background(), "postgres", "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return name, fmt.Sprintf("host=%s port=%d user=%s dbname=%s", server.SocketDir, server.Port, pgcluster.SuperuserName, name)
}

func open(t *testing.T, dsn string) *Store {
	t.Helper()
	s, err := Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is stored is found again, by another process too, and directories are what keys have in common.
func TestStore(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	_, dsn := database(t)
	ctx := within(t)
	one, other := open(t, dsn), open(t, dsn)
	binary := []byte{0, 1, '\\', 'x', 0xff, '\n'}
	for _, key := range []string{"a/b/c", "a/b/d", "a/e", "ab/f", "g"} {
		do(t, one.Store(ctx, key, append([]byte(key), binary...)))
	}
	do(t, one.Store(ctx, "a/e", binary))
	do(t, one.Store(ctx, "empty", nil))
	if got, err := other.Load(ctx, "a/e"); err != nil || string(got) != string(binary) {
		t.Errorf("a/e: %q, %v", got, err)
	}
	if got, err := other.Load(ctx, "empty"); err != nil || len(got) != 0 {
		t.Errorf("empty: %q, %v", got, err)
	}
	for _, key := range []string{"a", "a/b", "a/%", "", "missing"} {
		if got, err := other.Load(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %q, %v", key, got, err)
		}
	}
	for _, test := range []struct {
		directory string
		recursive bool
		want      []string
	}{
		{"a", false, []string{"a/b", "a/e"}},
		{"a", true, []string{"a/b", "a/b/c", "a/b/d", "a/e"}},
		{"a/b", false, []string{"a/b/c", "a/b/d"}},
		{"", false, []string{"a", "ab", "empty", "g"}},
	} {
		if got, err := other.List(ctx, test.directory, test.recursive); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("list %q, recursive %v: %q, %v, want %q", test.directory, test.recursive, got, err, test.want)
		}
	}
	if got, err := other.List(ctx, "missing", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list of what is missing: %q, %v", got, err)
	}
	if info, err := other.Stat(ctx, "a/e"); err != nil || !info.IsTerminal || info.Size != int64(len(binary)) || time.Since(info.Modified) > time.Hour {
		t.Errorf("a/e: %+v, %v", info, err)
	}
	if info, err := other.Stat(ctx, "a/b"); err != nil || info.IsTerminal {
		t.Errorf("a/b: %+v, %v", info, err)
	}
	if !other.Exists(ctx, "a/b") || !other.Exists(ctx, "g") || other.Exists(ctx, "a/") || other.Exists(ctx, "missing") {
		t.Error("exists: wrong")
	}
	do(t, other.Delete(ctx, "a"))
	do(t, other.Delete(ctx, "missing"))
	if got, err := one.List(ctx, "", true); err != nil || !slices.Equal(got, []string{"ab", "ab/f", "empty", "g"}) {
		t.Errorf("after delete: %q, %v", got, err)
	}
	one.Close()
	other.Close()
}

// One holds a lock at a time, in one process and in several; who waits hears of the end of its context.
func TestLock(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	_, dsn := database(t)
	ctx := within(t)
	stores := []*Store{open(t, dsn), open(t, dsn)}
	var mu sync.Mutex
	var holding, most, turns int
	count := func(change int) {
		mu.Lock()
		defer mu.Unlock()
		holding += change
		most = max(most, holding)
		turns++
	}
	var workers sync.WaitGroup
	for i := range 4 {
		workers.Go(func() {
			s := stores[i%2]
			if err := s.Lock(ctx, "order"); err != nil {
				t.Error(err)
				return
			}
			count(1)
			time.Sleep(time.Millisecond)
			count(-1)
			if err := s.Unlock(ctx, "order"); err != nil {
				t.Error(err)
			}
		})
	}
	workers.Wait()
	if most != 1 || turns != 8 {
		t.Errorf("%d at once, %d turns of 8", most, turns)
	}

	do(t, stores[0].Lock(ctx, "held"))
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := stores[1].Lock(canceled, "held"); !errors.Is(err, context.Canceled) {
		t.Errorf("lock with an ended context: %v", err)
	}
	do(t, stores[0].Unlock(canceled, "held")) // which is told all the same
	do(t, stores[1].Lock(ctx, "held"))
	do(t, stores[1].Unlock(ctx, "held"))
	if err := stores[1].Unlock(ctx, "held"); err == nil {
		t.Error("unlocked twice")
	}
	for _, s := range stores {
		s.Close()
	}
}

// A lock whose holder died is free when its lease is over, and the dead cannot give it back afterwards.
func TestLeaseOfTheDead(t *testing.T) {
	name, dsn := database(t)
	ctx := within(t)
	dead, heir := open(t, dsn), open(t, dsn)
	do(t, dead.Lock(ctx, "order"))
	waiting, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := heir.Lock(waiting, "order"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("taken from the living: %v", err)
	}
	do(t, server.Exec(ctx, name, "UPDATE pgreplicaproxy.certificate_locks SET expires = now() - interval '1 second'"))
	do(t, heir.Lock(ctx, "order"))
	do(t, dead.Unlock(ctx, "order"))
	if got, err := server.QueryString(ctx, name, "SELECT count(*) FROM pgreplicaproxy.certificate_locks WHERE expires > now()"); err != nil || got != "1" {
		t.Errorf("locks held: %s, %v", got, err)
	}
	do(t, heir.Unlock(ctx, "order"))
}

// A lost connection costs one operation at most.
func TestConnectionLost(t *testing.T) {
	name, dsn := database(t)
	ctx := within(t)
	s := open(t, dsn)
	do(t, s.Store(ctx, "key", []byte("value")))
	do(t, server.Exec(ctx, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name+"'"))
	for range 2 {
		if got, err := s.Load(ctx, "key"); err == nil && string(got) == "value" {
			return
		}
	}
	t.Error("no answer after the connection was lost")
}

// Where the tables are missing and may not be made, the error says what to do; where an administrator has made them, it works.
func TestTablesOfAnAdministrator(t *testing.T) {
	name, dsn := database(t)
	ctx := within(t)
	do(t, server.Exec(ctx, name, "CREATE ROLE plain LOGIN PASSWORD 'secret'"))
	t.Cleanup(func() { do(t, server.Exec(context.Background(), name, "DROP OWNED BY plain; DROP ROLE plain")) })
	dsn = strings.Replace(dsn, "user="+pgcluster.SuperuserName, "user=plain password=secret", 1)
	s := open(t, dsn)
	err := s.Store(ctx, "key", nil)
	if err == nil || !strings.Contains(err.Error(), "sql --certificates") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	do(t, server.Exec(ctx, name, Schema+"GRANT USAGE ON SCHEMA pgreplicaproxy TO plain;"+
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgreplicaproxy TO plain"))
	do(t, s.Store(ctx, "key", []byte("value")))
}

// Nothing that can be printed shows the password.
func TestNoSecrets(t *testing.T) {
	s := open(t, "postgresql://user:hunter2@127.0.0.1:1/certs")
	_, err := s.Load(within(t), "key")
	if err == nil {
		t.Fatal("loaded from nowhere")
	}
	_, wrong := Open("postgresql://user:hunter2@127.0.0.1:port/certs")
	if wrong == nil {
		t.Fatal("opened nonsense")
	}
	if text := fmt.Sprintf("%v %v %v %+v", s, err, wrong, s); strings.Contains(text, "hunter2") {
		t.Errorf("shows the password: %s", text)
	}
}
