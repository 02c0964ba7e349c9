package main

import (
	goversion "go/version"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

var testNames = regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`)

// TestSecurityNamesTests wants every test that SECURITY.md names to exist, and every threat to name one.
func TestSecurityNamesTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "SECURITY.md"))
	if err != nil {
		t.Fatal(err)
	}
	exists := testsOfProject(t)
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 3 || strings.HasPrefix(line, "| threat") {
			continue
		}
		rows++
		if !testNames.MatchString(cells[2]) {
			t.Errorf("no test shows: %s", cells[0])
		}
	}
	if rows < 30 {
		t.Errorf("found %d threats only", rows)
	}
	for _, name := range testNames.FindAllString(string(page), -1) {
		if !exists[name] {
			t.Errorf("%s does not exist", name)
		}
	}
}

// TestToolchain wants a Go that has the fixes SECURITY.md counts on: up to 1.26.6, of crypto/tls.
func TestToolchain(t *testing.T) {
	const least = "go1.26.6"
	module, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`(?m)^toolchain (\S+)$`).FindSubmatch(module)
	if asked == nil || goversion.Compare(string(asked[1]), least) < 0 {
		t.Errorf("go.mod asks for %q, want %s or newer", asked, least)
	}
	if got := runtime.Version(); goversion.IsValid(got) && goversion.Compare(got, least) < 0 {
		t.Errorf("built with %s, want %s or newer", got, least)
	}
}

// testsOfProject lists the tests and fuzz targets there are.
func testsOfProject(t *testing.T) map[string]bool {
	t.Helper()
	exists := make(map[string]bool)
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			if d != nil && d.IsDir() && err == nil {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(source), -1) {
			exists[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return exists
}
