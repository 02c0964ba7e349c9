package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shell runs a command in a directory and returns what it prints. It must succeed.
func shell(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

// checkout copies the project as it is here into a directory, as a commit of its own.
func checkout(t *testing.T, dir string) {
	t.Helper()
	const root = "../.."
	for _, name := range strings.Split(strings.Trim(shell(t, root, nil, "git", "ls-files", "-z", "-co", "--exclude-standard"), "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			continue // deleted here
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	const when = "2026-01-01T00:00:00Z"
	who := []string{
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=" + when, "GIT_COMMITTER_DATE=" + when, "GIT_CONFIG_GLOBAL=/dev/null",
	}
	shell(t, dir, who, "git", "init", "-q")
	shell(t, dir, who, "git", "add", "-A")
	shell(t, dir, who, "git", "commit", "-q", "-m", "as it is")
}

// The packages of one commit are the same wherever they are built, and what they install works.
func TestPackages(t *testing.T) {
	installation(t, 0) // skips where the others are skipped
	dir, built := t.TempDir(), []map[string][]byte(nil)
	for _, place := range []string{"one", "another/place"} {
		place = filepath.Join(dir, place)
		checkout(t, place)
		shell(t, place, []string{"VERSION=1.2.3"}, "make", "packages", "ARCHITECTURES="+runtime.GOARCH)
		built = append(built, readAll(t, filepath.Join(place, "dist")))
	}
	for name, content := range built[0] {
		if !bytes.Equal(content, built[1][name]) {
			t.Errorf("%s differs from build to build", name)
		}
	}
	dist := filepath.Join(dir, "one/dist")
	commit := strings.TrimSpace(shell(t, filepath.Join(dir, "one"), nil, "git", "rev-parse", "--short=12", "HEAD"))
	program := filepath.Join(dist, "pgreplicaproxy-linux-"+runtime.GOARCH)
	if got, want := shell(t, dir, nil, program, "version"), "pgreplicaproxy 1.2.3 "+commit+" "; !strings.HasPrefix(got, want) {
		t.Errorf("version is %q, want %q", got, want)
	}
	t.Run("deb", func(t *testing.T) { testDeb(t, filepath.Join(dist, "pgreplicaproxy_1.2.3_"+runtime.GOARCH+".deb")) })
	t.Run("rpm", func(t *testing.T) {
		found, err := filepath.Glob(filepath.Join(dist, "*.rpm"))
		if err != nil || len(found) != 1 {
			t.Fatalf("packages %v, %v", found, err)
		}
		testRPM(t, found[0])
	})
}

func readAll(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if files[entry.Name()], err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if len(files) != 3 {
		t.Fatalf("built %d files, want the program and two packages", len(files))
	}
	return files
}

// installed are the files of both packages with their modes.
var installed = map[string]fs.FileMode{
	"/etc/pgreplicaproxy/environment":                          0o600,
	"/etc/pgreplicaproxy/pgreplicaproxy.hcl":                   0o644,
	"/usr/bin/pgreplicaproxy":                                  0o755,
	"/usr/lib/systemd/system/pgreplicaproxy.service":           0o644,
	"/usr/lib/systemd/system/pgreplicaproxy.socket":            0o644,
	"/usr/share/bash-completion/completions/pgreplicaproxy":    0o644,
	"/usr/share/doc/pgreplicaproxy/README.md":                  0o644,
	"/usr/share/doc/pgreplicaproxy/copyright":                  0o644,
	"/usr/share/doc/pgreplicaproxy/docs/config.md":             0o644,
	"/usr/share/fish/vendor_completions.d/pgreplicaproxy.fish": 0o644,
	"/usr/share/man/man1/pgreplicaproxy.1.gz":                  0o644,
}

// testDeb installs the package into an empty root, uses what is there, and removes it.
func testDeb(t *testing.T, file string) {
	root := t.TempDir()
	admin := filepath.Join(root, "var/lib/dpkg")
	for _, d := range []string{"updates", "info"} {
		if err := os.MkdirAll(filepath.Join(admin, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(admin, "status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg := func(args ...string) {
		t.Helper()
		shell(t, root, []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"},
			"dpkg", append([]string{"--root=" + root, "--force-not-root", "--force-script-chrootless", "--force-bad-path"}, args...)...)
	}
	dpkg("--install", file)
	for name, mode := range installed {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v, want mode %v", name, info, err, mode)
		}
	}
	conffiles := shell(t, root, nil, "dpkg-deb", "--field", file, "Package", "Version")
	if want := "Package: pgreplicaproxy\nVersion: 1.2.3\n"; conffiles != want {
		t.Errorf("fields %q, want %q", conffiles, want)
	}
	program := filepath.Join(root, "usr/bin/pgreplicaproxy")
	etc := filepath.Join(root, "etc/pgreplicaproxy")
	if out := shell(t, etc, []string{"PGREPLICAPROXY_MONITOR_PASSWORD=secret"}, program, "check"); !strings.Contains(out, "is valid") {
		t.Errorf("check of the installed configuration: %s", out)
	}
	// A changed configuration outlives an upgrade and a removal, as Debian's policy asks of conffiles.
	changed := filepath.Join(etc, "pgreplicaproxy.hcl")
	if err := os.WriteFile(changed, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg("--install", file)
	dpkg("--remove", "pgreplicaproxy")
	if content, err := os.ReadFile(changed); string(content) != "# mine\n" {
		t.Errorf("changed configuration is %q, %v", content, err)
	}
	if _, err := os.Stat(program); err == nil {
		t.Error("the program is left after removal")
	}
	dpkg("--purge", "pgreplicaproxy")
	if _, err := os.Stat(changed); err == nil {
		t.Error("the configuration is left after purge")
	}
}

// testRPM looks at what is in the package: installing it takes a system of its kind.
func testRPM(t *testing.T, file string) {
	const query = "[%{FILENAMES} %{FILEMODES:perms} %{FILEFLAGS:fflags}\n]"
	got := make(map[string]string)
	for line := range strings.Lines(shell(t, ".", nil, "rpm", "--query", "--package", "--queryformat", query, file)) {
		fields := append(strings.Fields(line), "")
		got[fields[0]] = strings.TrimSpace(fields[1] + " " + fields[2])
	}
	want := make(map[string]string)
	for name, mode := range installed {
		want[name] = mode.String()
		if strings.HasPrefix(name, "/etc/") {
			want[name] += " cn" // a configuration file, not replaced
		}
	}
	for name := range got {
		if want[name] == "" && !strings.HasPrefix(name, "/usr/share/") {
			t.Errorf("has %s", name)
		}
	}
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s has %q, want %q", name, got[name], mode)
		}
	}
}

// The unit takes from the service what it does not need. systemd's own judge says so.
func TestServiceUnit(t *testing.T) {
	installation(t, 0)
	const most = "20" // of 100; what is left is the network, which is its trade
	shell(t, "../../packaging", nil, "systemd-analyze", "security", "--offline=true", "--threshold="+most, "pgreplicaproxy.service")

	// What the unit starts must be there to be verified.
	dir := t.TempDir()
	for _, name := range []string{"pgreplicaproxy.service", "pgreplicaproxy.socket"} {
		unit, err := os.ReadFile(filepath.Join("../../packaging", name))
		if err != nil {
			t.Fatal(err)
		}
		unit = bytes.ReplaceAll(unit, []byte("/usr/bin/pgreplicaproxy"), []byte(binary))
		unit = bytes.ReplaceAll(unit, []byte("man:pgreplicaproxy(1) "), nil)
		if err := os.WriteFile(filepath.Join(dir, name), unit, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(testContext(t), "systemd-analyze", "verify", "pgreplicaproxy.service", "pgreplicaproxy.socket")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	complaints := slices.DeleteFunc(slices.Collect(strings.Lines(string(out))), func(line string) bool {
		return strings.Contains(line, "notify-reload") // systemd before 253 ignores it, as the unit says
	})
	if err != nil || len(complaints) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, cmp.Diff("", fmt.Sprint(complaints)))
	}
}
