package pgcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestDir(t *testing.T) {
	ctx := testContext(t)
	config := Config{Installation: installations(t)[0]}
	parent := ownTempDir(t)

	// One that is there, with something in it that is not ours.
	kept := filepath.Join(parent, "kept")
	must(t, os.WriteFile(kept, nil, 0o600))
	config.Dir = parent
	first, err := Start(ctx, config)
	must(t, err)
	if second, err := Start(ctx, config); err == nil {
		t.Error("two clusters in one directory")
		_ = second.Stop(ctx)
	}
	ask(ctx, t, first.Server("db1"), "SELECT 1") // the second attempt must not have removed its files
	must(t, first.Stop(ctx))
	must(t, os.Remove(kept))
	checkEmpty(t, parent)

	// One to be made, whose path is too long for a socket.
	config.Dir = filepath.Join(parent, strings.Repeat("long", 25))
	long, err := Start(ctx, config)
	must(t, err)
	sockets := long.Server("db1").SocketDir
	must(t, long.Stop(ctx))
	checkEmpty(t, parent)
	if _, err := os.Stat(sockets); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("sockets were left: %v", err)
	}
}

func TestUnreachableDir(t *testing.T) {
	dir := filepath.Join(ownTempDir(t), "locked")
	must(t, os.Mkdir(dir, 0o700))
	below := filepath.Join(dir, "below")
	must(t, os.Mkdir(below, 0o755))
	other := account{name: "other", uid: 4_000_000, gid: 4_000_000}
	if err := other.checkReachable(below); err == nil || !strings.Contains(err.Error(), strconv.Quote(dir)) {
		t.Errorf("got error %v, want one that names %q", err, dir)
	}
	must(t, os.Chmod(dir, 0o711))
	must(t, other.checkReachable(below))
}

// TestStartFails breaks off at every stage; nothing may be left.
func TestStartFails(t *testing.T) {
	found := installations(t)[0]
	for _, step := range []string{"initdb", "cloning db2", "starting primary", "starting db2"} {
		t.Run(step, func(t *testing.T) {
			temp := ownTempDir(t)
			ctx, cancel := context.WithCancel(testContext(t))
			_, err := Start(ctx, Config{Installation: found, Standbys: 1, Progress: func(now string) {
				if now == step {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want %v", err, context.Canceled)
			}
			checkEmpty(t, temp)
		})
	}
	t.Run("setting", func(t *testing.T) {
		temp := ownTempDir(t)
		settings := map[string]string{"shared_preload_libraries": "no_such_library"}
		_, err := Start(testContext(t), Config{Installation: found, Settings: settings})
		if err == nil || !strings.Contains(err.Error(), "no_such_library") {
			t.Errorf("error does not hold the server's own: %v", err)
		}
		checkEmpty(t, temp)
	})
}

func TestSettingsLogAndProgress(t *testing.T) {
	ctx := testContext(t)
	temp := ownTempDir(t)
	var log bytes.Buffer
	var steps []string
	settings := map[string]string{"wal_level": "logical", "max_connections": "25", "search_path": `"it's", "a\b"`}
	c, err := Start(ctx, Config{
		Installation: installations(t)[0],
		Standbys:     1,
		Settings:     settings,
		Progress:     func(step string) { steps = append(steps, step) },
		Log:          &log,
	})
	must(t, err)
	for _, s := range c.Servers() {
		for name, want := range settings {
			if got := ask(ctx, t, s, "SHOW "+name); got != want {
				t.Errorf("%s: %s is %q, want %q", s.Name, name, got, want)
			}
		}
	}
	stopAndCheck(t, c, temp)
	for _, s := range c.Servers() {
		if !strings.Contains(log.String(), s.Name+": ") {
			t.Errorf("nothing was logged for %s", s.Name)
		}
	}
	if got, want := strings.Join(steps, ", "), "initdb, cloning db2, starting primary, starting db2"; got != want {
		t.Errorf("got steps %q, want %q", got, want)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	ctx := testContext(t)
	var log, printed bytes.Buffer
	temp := ownTempDir(t)
	settings := map[string]string{"log_statement": "all"}
	c, err := Start(ctx, Config{Installation: installations(t)[0], Standbys: 1, Log: &log, Settings: settings})
	must(t, err)
	must(t, c.Server("db2").Follow(ctx, c.Server("db1")))
	must(t, c.Server("db2").Restart(ctx))
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("made", "cluster", c, "server", c.Server("db2"))
	_, _ = fmt.Fprintf(&printed, "%v %+v %#v %s %+v", c, c, c, c, c.Server("db2"))
	servers, err := json.Marshal(c.Servers())
	must(t, err)
	stopAndCheck(t, c, temp)
	for name, secret := range map[string]string{"superuser": c.SuperuserPassword, "replication": c.ReplicationPassword} {
		if len(secret) < 20 {
			t.Errorf("the %s password is short", name)
		}
		if strings.Contains(log.String()+printed.String()+string(servers), secret) {
			t.Errorf("the %s password was printed", name)
		}
	}
}

// TestSystemIdentifiers: the tests of a proxy that meets a server of another cluster need two that differ.
func TestSystemIdentifiers(t *testing.T) {
	ctx := testContext(t)
	found := installations(t)[0]
	a, b := start(ctx, t, Config{Installation: found, Standbys: 1}), start(ctx, t, Config{Installation: found})
	const sql = "SELECT system_identifier FROM pg_control_system()"
	if got, want := ask(ctx, t, a.Server("db2"), sql), ask(ctx, t, a.Server("db1"), sql); got != want {
		t.Errorf("standby has system identifier %s, primary %s", got, want)
	}
	if got, other := ask(ctx, t, b.Server("db1"), sql), ask(ctx, t, a.Server("db1"), sql); got == other {
		t.Errorf("two clusters have system identifier %s", got)
	}
}
