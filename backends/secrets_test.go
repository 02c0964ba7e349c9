package backends

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/internal/scram"
)

// countingFunction is the function of `pgreplicaproxy sql`, which counts its calls besides.
const countingFunction = `
CREATE SCHEMA IF NOT EXISTS pgreplicaproxy;
CREATE SEQUENCE IF NOT EXISTS pgreplicaproxy.asked;
CREATE OR REPLACE FUNCTION pgreplicaproxy.scram_secret(role_name text) RETURNS text
LANGUAGE sql VOLATILE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
  SELECT nextval('pgreplicaproxy.asked');
  SELECT a.rolpassword FROM pg_catalog.pg_authid AS a WHERE a.rolname = role_name
$function$;
GRANT USAGE ON SCHEMA pgreplicaproxy TO monitor;
REVOKE ALL ON FUNCTION pgreplicaproxy.scram_secret(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgreplicaproxy.scram_secret(text) TO monitor`

// realSecrets are those of a real server with the function, and role app.
func realSecrets(t *testing.T) (*Secrets, *pgcluster.Server) {
	t.Helper()
	noLeaks(t)
	server := startCluster(t, pgcluster.Config{}).Server("db1")
	do(t, server.Exec(within(t), "postgres", countingFunction))
	do(t, server.Exec(within(t), "postgres", "CREATE ROLE app LOGIN PASSWORD '"+fileSecret+"'"))
	s := NewSecrets(secretsConfig(server), false)
	t.Cleanup(s.Close)
	return s, server
}

func secretsConfig(server *pgcluster.Server) MonitorConfig {
	return MonitorConfig{
		Targets: []Target{over(server, TLSOff)}, Timeout: patience,
		Credentials: Credentials{User: "monitor", Password: "s3cr3t", Database: "postgres"},
	}
}

// asked returns how often the server was asked.
func asked(t *testing.T, server *pgcluster.Server) int {
	t.Helper()
	text, err := server.QueryString(within(t), "postgres", "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM pgreplicaproxy.asked")
	do(t, err)
	n, err := strconv.Atoi(text)
	do(t, err)
	return n
}

// found looks up, which has to succeed.
func found(t *testing.T, s *Secrets, role string, maxAge time.Duration) RoleSecret {
	t.Helper()
	r, err := s.Lookup(within(t), "db1", role, maxAge)
	do(t, err)
	return r
}

func TestSecrets(t *testing.T) {
	s, server := realSecrets(t)
	want, err := scram.ParseSecret(fileSecret)
	do(t, err)
	if got := found(t, s, "app", time.Hour); got.Secret == nil || !got.Secret.Equal(want) || got.Iterations < 4096 {
		t.Errorf("got %+v, want %v", got, want)
	}
	for _, role := range []string{"nobody", "", "APP", "app'; --", "\xff", "a\xc3", strings.Repeat("x", 5000)} {
		if got := found(t, s, role, time.Hour); got.Secret != nil || got.Iterations < 4096 {
			t.Errorf("role %.20q: got %+v, want no secret", role, got)
		}
	}

	t.Run("ages", func(t *testing.T) {
		before := asked(t, server)
		for range 5 {
			found(t, s, "app", time.Hour)
		}
		if got := asked(t, server) - before; got != 0 {
			t.Errorf("what is remembered was asked for %d times", got)
		}
		for range 5 {
			found(t, s, "app", 0)
		}
		if got := asked(t, server) - before; got != 5 {
			t.Errorf("asked %d times, want 5: nothing remembered is as new as that", got)
		}
	})

	t.Run("change", func(t *testing.T) {
		other := scram.NewSecret("other", []byte("salt"), 1)
		do(t, server.Exec(within(t), "postgres", "ALTER ROLE app PASSWORD 'other'"))
		if got := found(t, s, "app", time.Hour); !got.Secret.Equal(want) {
			t.Error("what was remembered is gone")
		}
		if got := found(t, s, "app", 0); got.Secret.Equal(want) || got.Secret.Equal(other) {
			t.Error("the change is not seen")
		}
		if got := found(t, s, "app", time.Hour); got.Secret.Equal(want) {
			t.Error("the change is not remembered")
		}
	})

	t.Run("one connection", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				if _, err := s.Lookup(within(t), "db1", fmt.Sprint("role", i), 0); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		got, err := server.QueryString(within(t), "postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'monitor'")
		if err != nil || got != "1" {
			t.Errorf("got %s connections, %v; want 1", got, err)
		}
	})

	t.Run("connection lost", func(t *testing.T) {
		for range 3 {
			do(t, server.Exec(within(t), "postgres", "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE usename = 'monitor'"))
			found(t, s, "app", 0)
		}
	})

	t.Run("superusers", func(t *testing.T) { // of a function that leaves none out
		do(t, server.Exec(within(t), "postgres", "CREATE ROLE admin LOGIN SUPERUSER PASSWORD '"+fileSecret+"'"))
		if got := found(t, s, "admin", 0); got.Secret != nil {
			t.Error("a superuser has a secret, without leave")
		}
		allowed := NewSecrets(secretsConfig(server), true)
		defer allowed.Close()
		if got := found(t, allowed, "admin", 0); got.Secret == nil {
			t.Error("a superuser who may log in has no secret")
		}
	})

	t.Run("function missing", func(t *testing.T) {
		for _, sql := range []string{
			"REVOKE EXECUTE ON FUNCTION pgreplicaproxy.scram_secret(text) FROM monitor",
			"DROP FUNCTION pgreplicaproxy.scram_secret(text)", "DROP SCHEMA pgreplicaproxy CASCADE",
		} {
			do(t, server.Exec(within(t), "postgres", sql))
			_, err := s.Lookup(within(t), "db1", "app", 0)
			if err == nil || !strings.Contains(err.Error(), "read secret on db1") || !strings.Contains(err.Error(), "pgreplicaproxy sql") {
				t.Errorf("after %s: got %v, want what to do", sql, err)
			}
		}
		do(t, server.Exec(within(t), "postgres", countingFunction))
		found(t, s, "app", 0)
	})

	t.Run("not a secret", func(t *testing.T) {
		do(t, server.Exec(within(t), "postgres", `CREATE OR REPLACE FUNCTION pgreplicaproxy.scram_secret(role_name text)
			RETURNS text LANGUAGE sql AS $$SELECT 'SCRAM-SHA-256$4096:open-sesame'$$`))
		_, err := s.Lookup(within(t), "db1", "app", 0)
		if !errors.Is(err, scram.ErrSecret) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("got %v, want %v without the text", err, scram.ErrSecret)
		}
	})

	if _, err := s.Lookup(within(t), "db2", "app", time.Hour); err == nil {
		t.Error("a server that is not there was asked")
	}
}

// Who waits for the turn takes what was asked for meanwhile.
func TestSecretsShareQuestions(t *testing.T) {
	errAsked := errors.New("asked")
	for name, test := range map[string]struct {
		at   time.Duration // when the other question began, from when ours was wished for
		want error
	}{
		"after":  {time.Second, nil},
		"before": {-time.Second, errAsked},
	} {
		t.Run(name, func(t *testing.T) {
			r := &secretReader{
				timeout: patience, turn: make(chan struct{}, 1), cache: make(map[string]cachedSecret),
				logIn: func(context.Context) (*session, error) { return nil, errAsked },
			}
			since := time.Now()
			r.turn <- struct{}{}
			result := make(chan error)
			go func() {
				_, err := r.read(within(t), "app", since)
				result <- err
			}()
			r.remember("app", RoleSecret{Iterations: 1}, since.Add(test.at))
			<-r.turn
			if err := <-result; !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// A server that says nothing costs the timeout of the monitor, not that of the login.
func TestSecretsOfSilentServer(t *testing.T) {
	noLeaks(t)
	server := newScripted(t)
	server.mute = true
	s := NewSecrets(MonitorConfig{Targets: []Target{server.Target}, Credentials: testCredentials, Timeout: 50 * time.Millisecond}, false)
	defer s.Close()
	_, err := s.Lookup(within(t), "db1", "app", time.Hour)
	if err == nil || !strings.Contains(err.Error(), "no answer within 50ms") || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want an error that is not the login's own deadline", err)
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Lookup(cancelled, "db1", "app", time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// Strangers cannot make the memory grow by asking for roles.
func TestSecretsAreBounded(t *testing.T) {
	r := &secretReader{cache: make(map[string]cachedSecret)}
	now := time.Now()
	for i := range 2 * maxCached {
		r.remember(fmt.Sprint(i), RoleSecret{Iterations: i}, now)
	}
	if got := len(r.cache); got != maxCached {
		t.Errorf("%d roles are remembered, want %d", got, maxCached)
	}
	last := fmt.Sprint(2*maxCached - 1)
	if got, ok := r.cached(last, now.Add(-time.Second)); !ok || got.Iterations != 2*maxCached-1 {
		t.Errorf("the last one is %+v, %t", got, ok)
	}
	r.remember(last, RoleSecret{Iterations: 7}, now.Add(time.Second))
	if got, _ := r.cached(last, now); got.Iterations != 7 || len(r.cache) != maxCached {
		t.Errorf("renewed it is %+v, of %d", got, len(r.cache))
	}
	if _, ok := r.cached(last, now.Add(time.Second)); ok {
		t.Error("an answer is newer than itself")
	}
}

// A server that stays keeps its connection and what is known of it; one that is gone is no longer asked.
func TestSecretsUpdate(t *testing.T) {
	s, server := realSecrets(t)
	first, err := s.Lookup(within(t), "db1", "app", time.Hour)
	if err != nil || first.Secret == nil {
		t.Fatalf("got %+v, %v", first, err)
	}
	before := asked(t, server)
	config := secretsConfig(server)
	config.Targets[0].Weight = 7
	s.Update(config, false)
	if _, err := s.Lookup(within(t), "db1", "app", time.Hour); err != nil || asked(t, server) != before {
		t.Errorf("got %v, and the server was asked %d times more, want 0", err, asked(t, server)-before)
	}
	config.Targets[0].Name = "db2"
	s.Update(config, false)
	if _, err := s.Lookup(within(t), "db1", "app", time.Hour); err == nil || !strings.Contains(err.Error(), `no server "db1"`) {
		t.Errorf("of a server that is gone: %v", err)
	}
	if _, err := s.Lookup(within(t), "db2", "app", time.Hour); err != nil || asked(t, server) != before+1 {
		t.Errorf("got %v, and the server was asked %d times more, want 1", err, asked(t, server)-before)
	}
}
