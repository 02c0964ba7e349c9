package backends

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

func TestStateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roles", "main.json")
	do(t, CheckStateFile(path))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a check leaves a file: %v", err)
	}
	if m, err := loadMemory(path); err != nil || !m.same(memory{}) {
		t.Errorf("without a file: %+v, %v", m, err)
	}
	want := remembered().withFork("db3", fork{3, true})
	do(t, saveMemory(path, want))
	if got, err := loadMemory(path); err != nil || !got.same(want) || got.Position != want.Position {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	info, err := os.Stat(path)
	do(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("mode is %s", info.Mode())
	}
	do(t, CheckStateFile(path))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

// A program that is killed while it writes leaves the old file, and what it had begun is cleared away later.
func TestStateFileAfterAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "main.json")
	do(t, saveMemory(path, remembered()))
	half := filepath.Join(filepath.Dir(path), ".main.json-123")
	do(t, os.WriteFile(half, []byte(`{"version": 1, "system_iden`), 0o600))
	do(t, CheckStateFile(path)) // another program may be writing it
	if _, err := os.Stat(half); err != nil {
		t.Error(err)
	}
	old := time.Now().Add(-time.Hour)
	do(t, os.Chtimes(half, old, old))
	do(t, CheckStateFile(path))
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was begun is still there: %v", err)
	}
	if m, err := loadMemory(path); err != nil || !m.same(remembered()) {
		t.Errorf("%+v, %v", m, err)
	}
}

// Nobody is served by a guess: a file that cannot be used says what to do.
func TestStateFileUnusable(t *testing.T) {
	const advice = "remove the file)"
	for name, content := range map[string]string{
		"empty":      "",
		"torn":       `{"version": 1, "system_identifier": "7`,
		"garbage":    "\x00\x00\x00\x00",
		"no JSON":    "db1",
		"newer":      `{"version": 2}`,
		"no version": `{"primary": "db1", "timeline": 3, "system_identifier": "7"}`,
		"no epoch":   `{"version": 1, "primary": "db1", "system_identifier": "7"}`,
		"no primary": `{"version": 1, "timeline": 3, "system_identifier": "7"}`,
		"no cluster": `{"version": 1, "primary": "db1", "timeline": 3}`,
		"wrong type": `{"version": 1, "primary": "db1", "timeline": -1, "system_identifier": "7"}`,
	} {
		path := filepath.Join(t.TempDir(), "main.json")
		do(t, os.WriteFile(path, []byte(content), 0o600))
		if err := CheckStateFile(path); err == nil || !strings.Contains(err.Error(), path) || !strings.HasSuffix(err.Error(), advice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "main.json")
	do(t, os.Mkdir(path, 0o700))
	if err := CheckStateFile(path); err == nil || !strings.HasPrefix(err.Error(), "roles of servers: read "+path) {
		t.Errorf("a directory: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	do(t, os.WriteFile(file, nil, 0o600))
	if err := CheckStateFile(filepath.Join(file, "main.json")); err == nil || !strings.HasSuffix(err.Error(), "(make it writable, or set state_dir)") {
		t.Errorf("a file for a directory: %v", err)
	}
}

// If the file becomes unusable all the same before it is read, nobody is served until the operator has spoken.
func TestMonitorWithAnUnusableStateFile(t *testing.T) {
	noLeaks(t)
	path := filepath.Join(t.TempDir(), "main.json")
	do(t, os.WriteFile(path, []byte("no"), 0o600))
	db1 := named(t, "db1", false)
	m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target}, Interval: 20 * time.Millisecond, StateFile: path})
	awaitServer(t, m, "db1", policy.Unknown, Blind)
	if err := m.Snapshot().Judgement.StateFileError; err == nil {
		t.Error("the snapshot does not tell")
	}
	do(t, m.Forget())
	awaitServer(t, m, "db1", policy.Primary, Up)
	if kept, err := loadMemory(path); err != nil || kept.Primary != "db1" {
		t.Errorf("%+v, %v", kept, err)
	}
}

// A file that can no longer be written (here its directory is gone) keeps nobody from being served. It is told, and tried again.
func TestStateFileCannotBeWritten(t *testing.T) {
	noLeaks(t)
	dir := filepath.Join(t.TempDir(), "roles")
	path := filepath.Join(dir, "main.json")
	do(t, CheckStateFile(path))
	do(t, os.RemoveAll(dir))
	db1 := named(t, "db1", false)
	clock := newClock()
	m, log := monitor(t, MonitorConfig{Targets: []Target{db1.Target}, Interval: 20 * time.Millisecond, StateFile: path, now: clock.now})
	awaitServer(t, m, "db1", policy.Primary, Up)
	await(t, m, "the error is told", func(s *Snapshot) bool { return errors.Is(s.Judgement.StateFileError, fs.ErrNotExist) })
	if !log.has("roles not stored: after a restart now, a stale primary could be believed") {
		t.Error("the log does not tell")
	}
	do(t, os.Mkdir(dir, 0o700))
	clock.advance(retryWrite)
	await(t, m, "it is written", func(s *Snapshot) bool { return s.Judgement.StateFileError == nil })
	if kept, err := loadMemory(path); err != nil || kept.Primary != "db1" {
		t.Errorf("%+v, %v", kept, err)
	}
}

// A disk that does not answer holds a new primary up for a while, not for ever, and fencing not at all.
func TestKeeperOnASlowDisk(t *testing.T) {
	k := keeper{path: "somewhere"}
	m := remembered()
	k.writing, k.done, k.slow = &m, make(chan error, 1), time.NewTimer(time.Hour)
	if k.holds(m) {
		t.Error("a primary is served before the file is written")
	}
	k.stored(begin, errSlowWrite)
	if !k.holds(m) || k.err == nil || k.writing == nil {
		t.Errorf("%+v", k)
	}
	k.stored(begin, nil)
	if !k.holds(m) || k.err != nil || k.writing != nil {
		t.Errorf("%+v", k)
	}
}

// The last position is in the file when the monitor ends.
func TestStateFileAtTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "main.json")
	t.Run("monitored", func(t *testing.T) {
		db1 := named(t, "db1", false)
		m, _ := monitor(t, MonitorConfig{Targets: []Target{db1.Target}, Interval: 10 * time.Millisecond, StateFile: path})
		awaitServer(t, m, "db1", policy.Primary, Up)
		db1.set(func() { db1.written = 5000 })
		await(t, m, "it has written more", func(s *Snapshot) bool { return s.States[0].Written == 5000 })
	})
	if kept, err := loadMemory(path); err != nil || kept.Position != 5000 {
		t.Errorf("%+v, %v", kept, err)
	}
}
