package pgcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// binVariable names the environment variable that points to the directory of the server programs to prefer.
const binVariable = "PGREPLICAPROXY_PG_BIN"

// oldestVersion is the first major version that has wal_keep_size and reloads primary_conninfo without a restart
// (release notes of PostgreSQL 13), on both of which this package builds.
const oldestVersion = 13

// ErrNotInstalled says that the PostgreSQL server programs were not found; the error that wraps it says what to
// install.
var ErrNotInstalled = errors.New("PostgreSQL server programs not found")

// Installation is one set of PostgreSQL server programs. The zero value is not usable; Find and All fill it.
type Installation struct {
	// BinDir is the directory that holds initdb and postgres.
	BinDir string
	// Version is the major version, such as 18.
	Version int
	// LibDir, when not empty, is put in LD_LIBRARY_PATH: relocated builds keep libpq and OpenSSL there.
	LibDir string
}

// binPatterns are the directories in which distributions put the server programs.
var binPatterns = [...]string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // the RPMs of postgresql.org
	"/usr/lib/postgresql*/bin",  // SUSE
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/local/pgsql/bin",      // built from source
}

// Find returns an installation of the major version, or the preferred one when version is 0: that which the
// environment variable PGREPLICAPROXY_PG_BIN names if it is set, and else the newest. It looks in that variable's
// directory, in dirs (each either a directory of programs or the parent of one called bin), where distributions put
// the programs, and on PATH. The error wraps ErrNotInstalled when there is none.
func Find(version int, dirs ...string) (Installation, error) {
	if dir := os.Getenv(binVariable); dir != "" {
		preferred, err := inspect(dir)
		if err != nil {
			return Installation{}, fmt.Errorf("%w: %s: %w", ErrNotInstalled, binVariable, err)
		}
		if version == 0 || version == preferred.Version {
			return preferred, nil
		}
	}
	for _, found := range All(dirs...) {
		if version == 0 || version == found.Version {
			return found, nil
		}
	}
	wanted := ""
	if version != 0 {
		wanted = fmt.Sprintf(" for version %d", version)
	}
	return Installation{}, fmt.Errorf("%w%s: install the package postgresql (Debian, Ubuntu, Alpine) or "+
		"postgresql-server (Fedora, RHEL, SUSE), or set %s to the directory of initdb and postgres",
		ErrNotInstalled, wanted, binVariable)
}

// All returns every installation that Find would consider, newest first, each directory once; none is not an error.
func All(dirs ...string) []Installation {
	var candidates []string
	if dir := os.Getenv(binVariable); dir != "" {
		candidates = append(candidates, dir)
	}
	candidates = append(candidates, dirs...)
	for _, pattern := range binPatterns {
		matches, _ := filepath.Glob(pattern) // the only error is a malformed pattern
		candidates = append(candidates, matches...)
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		candidates = append(candidates, filepath.Dir(initdb))
	}

	var all []Installation
	seen := make(map[string]bool)
	for _, dir := range candidates {
		found, err := inspect(dir)
		if err != nil || seen[found.BinDir] {
			continue
		}
		seen[found.BinDir] = true
		all = append(all, found)
	}
	slices.SortStableFunc(all, func(a, b Installation) int { return cmp.Compare(b.Version, a.Version) })
	return all
}

// inspect returns the installation whose programs are in dir, or in dir/bin.
func inspect(dir string) (Installation, error) {
	for _, bin := range []string{dir, filepath.Join(dir, "bin")} {
		if !isProgram(filepath.Join(bin, "initdb")) || !isProgram(filepath.Join(bin, "postgres")) {
			continue
		}
		// A link on PATH leads to the real directory here, so that one installation is listed once.
		postgres, err := filepath.EvalSymlinks(filepath.Join(bin, "postgres"))
		if err != nil {
			return Installation{}, err
		}
		found := Installation{BinDir: filepath.Dir(postgres)}
		if lib := filepath.Join(found.BinDir, "..", "lib"); isProgram(filepath.Join(lib, "libpq.so.5")) {
			found.LibDir = filepath.Clean(lib)
		}
		found.Version, err = found.askVersion()
		return found, err
	}
	return Installation{}, fmt.Errorf("no initdb and postgres in %q", dir)
}

// isProgram tells whether path is a file that can be executed (shared libraries are, too).
func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// versionPattern matches what `postgres --version` prints, such as "postgres (PostgreSQL) 15.18 (Debian …)" or
// "postgres (PostgreSQL) 19beta1".
var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// askVersion asks the server program for its major version.
func (i Installation) askVersion() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, i.program("postgres"), "--version")
	cmd.Env = i.environment("/")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w", cmd.Path, err)
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("%s --version: not understood: %q", cmd.Path, out)
	}
	return strconv.Atoi(string(match[1]))
}

// program returns the path of one of the programs.
func (i Installation) program(name string) string { return filepath.Join(i.BinDir, name) }

// environment is all that the programs get to see of an environment. Ours is kept from them: PGDATA, PGOPTIONS or
// PGPORT would change what they do.
func (i Installation) environment(home string) []string {
	env := []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + home}
	if i.LibDir != "" {
		env = append(env, "LD_LIBRARY_PATH="+i.LibDir)
	}
	return env
}
