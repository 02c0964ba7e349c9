package backends

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/scram"
)

// fileSecret is the text of a secret, with 16 bytes of salt.
const fileSecret = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$" +
	"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="

func writeSecrets(t *testing.T, path, text string) {
	t.Helper()
	do(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestSecretsFile(t *testing.T) {
	want, err := scram.ParseSecret(fileSecret)
	do(t, err)
	path := filepath.Join(t.TempDir(), "secrets.txt")
	writeSecrets(t, path, strings.Join([]string{
		"; a comment", "# another", "", "  \t",
		`"app" "` + fileSecret + `"`,
		"\t  \"indented\"   \t\"" + fileSecret + "\" \r",
		`"with ""quotes""" "` + fileSecret + `"`,
		`"back\slash" "` + fileSecret + `"`,
		`"größe" "` + fileSecret + `"`,
		`"; no comment" "` + fileSecret + `"`,
	}, "\n"))
	f, err := LoadSecretsFile(path)
	do(t, err)
	for _, role := range []string{"app", "indented", `with "quotes"`, `back\slash`, "größe", "; no comment"} {
		found, err := f.Lookup(context.Background(), "db1", role, 0)
		if err != nil || found.Secret == nil || !found.Secret.Equal(want) {
			t.Errorf("role %q: got %v, %v", role, found.Secret, err)
		}
	}
	for _, role := range []string{"", "APP", "nobody", "quotes"} {
		found, err := f.Lookup(context.Background(), "db1", role, 0)
		if err != nil || found.Secret != nil || found.Iterations != 4096 {
			t.Errorf("role %q: got %+v, %v; want no secret and 4096 iterations", role, found, err)
		}
	}
}

// What is wrong is told with its line, and without the secret.
func TestSecretsFileErrors(t *testing.T) {
	const form = `expected "role" "SCRAM-SHA-256$…"`
	for name, test := range map[string]struct{ line, want string }{
		"no quotes":           {"app " + fileSecret, form},
		"role only":           {`"app"`, form},
		"role without quotes": {`app "` + fileSecret + `"`, form},
		"open quote":          {`"app" "` + fileSecret, form},
		"open role":           {`"app`, form},
		"empty role":          {`"" "` + fileSecret + `"`, form},
		"something behind":    {`"app" "` + fileSecret + `" x`, form},
		"third word":          {`"app" "` + fileSecret + `" ""`, form},
		"md5":                 {`"app" "md5abcdef0123456789abcdef0123456789"`, "not a SCRAM-SHA-256 secret"},
		"password":            {`"app" "open-sesame"`, "not a SCRAM-SHA-256 secret"},
		"cut off":             {`"app" "` + fileSecret[:len(fileSecret)-4] + `"`, "not a SCRAM-SHA-256 secret: ServerKey"},
		"twice":               {`"first" "` + fileSecret + `"`, `role "first" has a secret already`},
		"line of 100 kB":      {`"app" "` + strings.Repeat("x", 100_000) + `"`, "token too long"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secrets.txt")
			writeSecrets(t, path, `"first" "`+fileSecret+"\"\n; two\n"+test.line+"\n")
			_, err := LoadSecretsFile(path)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if name != "line of 100 kB" && !strings.Contains(err.Error(), path+":3:") {
				t.Errorf("got %v, want line 3", err)
			}
			for _, secret := range []string{"AAECAwQF", "open-sesame", "md5abc", "c2FsdHNhbHRz"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error shows a secret: %v", err)
				}
			}
		})
	}
	if _, err := LoadSecretsFile(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a missing file was read")
	}
}

// Reload replaces everything or nothing.
func TestSecretsFileReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.txt")
	writeSecrets(t, path, `"old" "`+fileSecret+`"`)
	f, err := LoadSecretsFile(path)
	do(t, err)
	has := func(role string) bool {
		found, err := f.Lookup(context.Background(), "db1", role, 0)
		do(t, err)
		return found.Secret != nil
	}
	writeSecrets(t, path, `"new" "`+fileSecret+"\"\nbroken")
	if err := f.Reload(); err == nil || !has("old") || has("new") {
		t.Errorf("broken file: %v, old %t, new %t; want an error and the old one", err, has("old"), has("new"))
	}
	writeSecrets(t, path, `"new" "`+fileSecret+`"`)
	if err := f.Reload(); err != nil || has("old") || !has("new") {
		t.Errorf("good file: %v, old %t, new %t; want the new one", err, has("old"), has("new"))
	}
	do(t, os.Remove(path))
	if err := f.Reload(); err == nil || !has("new") {
		t.Errorf("no file: %v, new %t; want an error and the secrets of before", err, has("new"))
	}
	found, _ := f.Lookup(context.Background(), "db1", "new", 0)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, found) + fmt.Sprintf(verb, found.Secret); strings.Contains(text, "AAECAw") {
			t.Errorf("%s shows the secret: %s", verb, text)
		}
	}
}
