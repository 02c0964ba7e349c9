package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	unformatted = "cluster \"main\" {\nbackend \"db1\" {\naddress=\"10.0.0.11\"   # one\n}\n}\n"
	formatted   = "cluster \"main\" {\n  backend \"db1\" {\n    address = \"10.0.0.11\" # one\n  }\n}\n"
	broken      = "cluster \"main\" {\nbackend \"db1\" {\n"
)

// writeTestFile writes a file of the given mode and returns its path.
func writeTestFile(t *testing.T, dir, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s: got %q, want %q", path, got, want)
	}
}

// TestFmtRewrites keeps what surrounds the content: mode, owner, the link that names the file, and the directory.
func TestFmtRewrites(t *testing.T) {
	dir := t.TempDir()
	file := writeTestFile(t, dir, "real.hcl", unformatted, 0o640)
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // others cannot give files away
		uid, gid = 12345, 12346
		if err := os.Chown(file, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "link.hcl")
	if err := os.Symlink("real.hcl", link); err != nil {
		t.Fatal(err)
	}

	if got, want := outcome("fmt", "--config", link), link+"\nexit code 0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wantContent(t, file, formatted)
	info, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), os.FileMode(0o640); got != want {
		t.Errorf("got mode %v, want %v", got, want)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != uid || int(stat.Gid) != gid {
		t.Errorf("got owner %v, want %d:%d", stat, uid, gid)
	}
	if got, err := os.Readlink(link); err != nil || got != "real.hcl" {
		t.Errorf("the link is %q, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("got %v, %v in the directory, want the file and its link", entries, err)
	}
	if got, want := outcome("fmt", "--config", link), "exit code 0\n"; got != want {
		t.Errorf("second time: got %q, want %q", got, want)
	}
}

func TestFmtCheck(t *testing.T) {
	dir := t.TempDir()
	good := writeTestFile(t, dir, "good.hcl", formatted, 0o600)
	bad := writeTestFile(t, dir, "bad.hcl", unformatted, 0o600)
	if got, want := outcome("fmt", "--check", good), "exit code 0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want := bad + "\npgreplicaproxy: not in canonical layout: 1 file\nexit code 1\n"
	if got := outcome("fmt", "--check", good, bad); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wantContent(t, bad, unformatted)
}

// TestFmtRefuses leaves alone what is not HCL, and still does the other files.
func TestFmtRefuses(t *testing.T) {
	dir := t.TempDir()
	bad := writeTestFile(t, dir, "bad.hcl", broken, 0o600)
	good := writeTestFile(t, dir, "good.hcl", unformatted, 0o600)
	got := outcome("fmt", bad, good)
	if !strings.Contains(got, "bad.hcl line 2") || !strings.HasSuffix(got, "exit code 2\n") {
		t.Errorf("got %q, want a diagnostic and exit code 2", got)
	}
	wantContent(t, bad, broken)
	wantContent(t, good, formatted)
	if got := outcome("fmt", filepath.Join(dir, "missing.hcl")); !strings.HasSuffix(got, "exit code 2\n") {
		t.Errorf("got %q, want exit code 2", got)
	}
}

func TestFmtStdin(t *testing.T) {
	for _, test := range []struct {
		args      []string
		in, out   string
		code      int
		diagnosed string
	}{
		{[]string{"fmt", "-"}, unformatted, formatted, exitOK, ""},
		{[]string{"fmt", "-"}, formatted, formatted, exitOK, ""},
		{[]string{"fmt", "--check", "-"}, unformatted, "stdin\n", exitFailed, "not in canonical layout"},
		{[]string{"fmt", "--check", "-"}, formatted, "", exitOK, ""},
		{[]string{"fmt", "-"}, broken, "", exitUsage, "stdin line 2"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(test.args, strings.NewReader(test.in), &stdout, &stderr)
		if code != test.code || stdout.String() != test.out || !strings.Contains(stderr.String(), test.diagnosed) {
			t.Errorf("%v of %q: got code %d, %q, %q", test.args, test.in, code, &stdout, &stderr)
		}
	}
}
