package pgcluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakePrograms makes a directory with programs that say they are of the given version.
func fakePrograms(t *testing.T, version string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bin")
	must(t, os.Mkdir(bin, 0o755))
	script := []byte("#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n")
	for _, name := range []string{"initdb", "postgres"} {
		must(t, os.WriteFile(filepath.Join(bin, name), script, 0o755))
	}
	return bin
}

func TestFind(t *testing.T) {
	t.Setenv(binVariable, "")
	old, new := fakePrograms(t, "97.3 (Debian 97.3-1)"), fakePrograms(t, "98beta1")
	parent := filepath.Dir(new)

	for _, test := range []struct {
		version  int
		variable string
		dirs     []string
		want     string
	}{
		{0, "", []string{old, parent}, new},
		{0, "", []string{parent, old}, new},
		{97, "", []string{old, parent}, old},
		{0, old, []string{new}, old},
		{98, old, []string{new}, new},
		{97, "", []string{"/nowhere", old}, old},
	} {
		t.Setenv(binVariable, test.variable)
		got, err := Find(test.version, test.dirs...)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
		} else if got.BinDir != test.want {
			t.Errorf("%+v: got %+v", test, got)
		}
	}
}

func TestFindNothing(t *testing.T) {
	t.Setenv(binVariable, "")
	_, err := Find(99)
	if !errors.Is(err, ErrNotInstalled) {
		t.Errorf("got %v, want %v", err, ErrNotInstalled)
	}
	if !strings.Contains(err.Error(), "99") || !strings.Contains(err.Error(), "package postgresql") {
		t.Errorf("error names neither version nor package: %v", err)
	}
	t.Setenv(binVariable, t.TempDir())
	if _, err := Find(0); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), binVariable) {
		t.Errorf("variable that leads nowhere: got %v", err)
	}
}

func TestAllListsEachOnce(t *testing.T) {
	bin := fakePrograms(t, "97.1")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(bin, link))
	t.Setenv(binVariable, bin)
	count := 0
	for _, found := range All(bin, link, filepath.Dir(bin)) {
		if found.Version == 97 {
			count++
		}
	}
	if count != 1 {
		t.Errorf("listed %d times", count)
	}
}

func TestStartRefusesOldVersions(t *testing.T) {
	if _, err := Start(testContext(t), Config{Installation: Installation{BinDir: "/old", Version: 12}}); err == nil {
		t.Error("started version 12")
	}
}
