package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/replicon/pgreplicaproxy/"
)

// allowed says which packages of the project each package may import, and why no others. Arrows point one way: from the
// command down to the pure packages.
var allowed = map[string]struct {
	imports []string
	reason  string
}{
	"policy":              {nil, "the decision is pure: no input, output, clock or lock can reach it"},
	"wire":                {nil, "bytes and nothing else: it has no connections to misuse"},
	"internal/scram":      {nil, "the cryptography is pure, so that vectors can test it"},
	"internal/cores":      {nil, "it is below all that counts processors"},
	"internal/admission":  {[]string{"internal/cores"}, "limits are kept by addresses, names and a clock, so that tests can set all three"},
	"internal/socket":     {nil, "the lowest layer: every leg stands on it"},
	"internal/handover":   {nil, "sockets change hands the same whatever they are for"},
	"internal/relay":      {[]string{"wire", "internal/cores", "internal/socket"}, "it must not know why a session exists or ends"},
	"tlsfront":            {[]string{"wire", "internal/admission", "internal/socket"}, "receiving clients is apart from serving them"},
	"backends":            {[]string{"wire", "policy", "internal/scram", "internal/socket"}, "servers are watched the same whoever the clients are"},
	"internal/metrics":    {[]string{"backends", "policy"}, "it counts what the others tell it, and asks them nothing"},
	"internal/pgcluster":  {nil, "throwaway servers are no part of the proxy: the demo and the tests use them"},
	"internal/certstore":  {nil, "it keeps bytes by name, whatever they mean"},
	"internal/acmetest":   {nil, "an ACME server for tests is no part of the proxy"},
	"internal/dnstest":    {nil, "a server for tests"},
	"internal/testreport": {nil, "a tool of the pipeline"},
	"internal/e2e":        {[]string{"internal/pgcluster"}, "it tests the built program from outside"},
	"internal/discovery":  {[]string{"backends"}, "it finds servers, and knows nothing of sessions"},
	"internal/proxy": {
		[]string{"internal/discovery", "tlsfront", "backends", "policy", "wire", "internal/admission", "internal/events", "internal/metrics", "internal/relay", "internal/scram", "internal/socket"},
		"the assembly knows every part, but not the command line, signals or HCL",
	},
	"internal/bench":  {[]string{"internal/pgcluster"}, "it measures the built program from outside"},
	"internal/soak":   {[]string{"internal/pgcluster", "wire"}, "it loads the built program from outside"},
	"internal/admin":  {[]string{"backends", "policy", "internal/events"}, "it tells what it is given, and does what it is handed a function for"},
	"internal/events": {nil, "it remembers what the others tell it"},
	"cmd/pgreplicaproxy": {
		[]string{"internal/discovery", "internal/admin", "internal/admission", "internal/certstore", "internal/handover", "internal/events", "internal/metrics", "tlsfront", "backends", "policy", "internal/proxy", "internal/pgcluster"},
		"the edge puts the parts together and does nothing on the wire itself",
	},
}

// external says which third-party modules a package may import; packages that are not named here may import none.
var external = map[string][]string{
	"wire":     {"github.com/jackc/pgx/v5/pgproto3"},
	"backends": {"github.com/jackc/pgx/v5/pgconn", "github.com/pires/go-proxyproto"},
	"tlsfront": {
		"github.com/pires/go-proxyproto", "github.com/caddyserver/certmagic", "github.com/mholt/acmez/v3", "go.uber.org/zap",
		"github.com/libdns/libdns", "github.com/miekg/dns",
	},
	"internal/certstore": {"github.com/caddyserver/certmagic", "github.com/jackc/pgx/v5/pgconn"},
	"internal/acmetest":  {"github.com/letsencrypt/pebble/v2", "github.com/miekg/dns"},
	"internal/socket":    {"golang.org/x/sys/unix"},
	"internal/admission": {"golang.org/x/time/rate"},
	"internal/handover":  {"github.com/coreos/go-systemd/v22/activation", "golang.org/x/sys/unix"},
	"internal/relay":     {"golang.org/x/sys/unix"},
	"internal/metrics":   {"github.com/prometheus/client_golang/prometheus"},
	"internal/bench":     {"github.com/jackc/pgx/v5/pgconn", "golang.org/x/sys/unix"},
	"internal/soak":      {"github.com/jackc/pgx/v5/pgconn"},
	"internal/pgcluster": {"github.com/jackc/pgx/v5/pgconn", "golang.org/x/sync", "golang.org/x/sys/unix"},
	"cmd/pgreplicaproxy": {
		"github.com/hashicorp/hcl/v2", "github.com/zclconf/go-cty", "github.com/lmittmann/tint", "github.com/spf13/cobra",
		"golang.org/x/sys/unix", "golang.org/x/term", "github.com/coreos/go-systemd/v22/daemon",
	},
}

// TestImports holds the directions of the arrows.
func TestImports(t *testing.T) {
	for dir, files := range sources(t) {
		rule, known := allowed[dir]
		if !known {
			t.Errorf("package %s has no rule: say in arch_test.go what it may import, and why", dir)
		}
		for _, file := range files {
			for _, path := range importsOf(t, file) {
				inside, ours := strings.CutPrefix(path, module)
				switch {
				case ours && !slices.Contains(rule.imports, inside):
					t.Errorf("%s imports %s, but %s", file, inside, rule.reason)
				case !ours && strings.Contains(strings.Split(path, "/")[0], ".") && !slices.ContainsFunc(external[dir], func(m string) bool {
					return path == m || strings.HasPrefix(path, m+"/")
				}):
					t.Errorf("%s imports %s, which is not among the modules of package %s", file, path, dir)
				}
			}
		}
	}
}

// TestPackageDocs wants every package to say what it does.
func TestPackageDocs(t *testing.T) {
	for dir, files := range sources(t) {
		documented := slices.ContainsFunc(files, func(file string) bool {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly|parser.ParseComments)
			return err == nil && f.Doc != nil
		})
		if !documented {
			t.Errorf("package %s has no doc comment", dir)
		}
	}
}

// sources lists the Go files of each package, without tests.
func sources(t *testing.T) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == ".git"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			dir, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			found[filepath.ToSlash(dir)] = append(found[filepath.ToSlash(dir)], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < len(allowed)/2 {
		t.Fatalf("found %d packages only", len(found))
	}
	return found
}

func importsOf(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}
