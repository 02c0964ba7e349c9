package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The key is made once, for its owner alone, and is random.
func TestMockKeyIsMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state") // which is not there yet
	first, err := mockKey("", dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := mockKey("", dir)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("for the second time got %v and another key: %t", err, !bytes.Equal(first, again))
	}
	if len(first) != 32 || bytes.Equal(first, make([]byte, 32)) {
		t.Errorf("the key has %d bytes, want 32 random ones", len(first))
	}
	info, err := os.Stat(filepath.Join(dir, "mock.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", info.Mode().Perm(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v; want 0700", info.Mode().Perm(), err)
	}
	other, err := mockKey("", t.TempDir())
	if err != nil || bytes.Equal(first, other) {
		t.Errorf("another directory: %v, the same key: %t", err, bytes.Equal(first, other))
	}
}

// Programs that start at once agree on the key of one of them, and leave nothing else behind.
func TestMockKeyOfSeveral(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		keys := make([][]byte, 8)
		var all sync.WaitGroup
		for i := range keys {
			all.Go(func() {
				key, err := mockKey("", dir)
				if err != nil {
					t.Error(err)
				}
				keys[i] = key
			})
		}
		all.Wait()
		for _, key := range keys {
			if len(key) != 32 || !bytes.Equal(key, keys[0]) {
				t.Fatal("the keys differ")
			}
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 1 {
			t.Errorf("left behind: %v, %v", files, err)
		}
	}
}

func TestMockKeyOfFile(t *testing.T) {
	state := t.TempDir()
	for name, test := range map[string]struct {
		content string
		refused string // part of the error
	}{
		"32 bytes": {strings.Repeat("k", 32), ""},
		"more":     {strings.Repeat("k", 100), ""},
		"31 bytes": {strings.Repeat("k", 31), "has 31 bytes, and needs 32 random ones"},
		"empty":    {"", "has 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "shared.key")
			if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			checkMockKey(t, file, state, test.content, test.refused)
		})
	}
	// A file that the configuration names is never made: each program would have its own.
	missing := filepath.Join(t.TempDir(), "missing.key")
	checkMockKey(t, missing, state, "", "no such file")
	if _, err := os.Stat(missing); err == nil {
		t.Error("the missing file was made")
	}
	if err := os.WriteFile(filepath.Join(state, "mock.key"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	checkMockKey(t, "", state, "", "has 5 bytes") // of a disk that was full, say: not replaced unasked
}

func checkMockKey(t *testing.T, file, state, want, refused string) {
	t.Helper()
	key, err := mockKey(file, state)
	switch {
	case refused == "" && (err != nil || string(key) != want):
		t.Errorf("got %q, %v", key, err)
	case refused != "" && (err == nil || !strings.Contains(err.Error(), refused)):
		t.Errorf("got %v, want an error with %q", err, refused)
	case err != nil && want != "" && strings.Contains(err.Error(), want):
		t.Errorf("the error shows the key: %v", err)
	}
}
