package backends

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/scram"
)

// SecretsFile holds SCRAM secrets from a file, for servers whose pg_authid nobody may read. Each line has a role's name and
// its secret, both in double quotes, a quote within them doubled: the format of PgBouncer's auth_file. Empty lines and lines
// that begin with ; or # are passed over. All servers of the cluster are taken to have these secrets.
type SecretsFile struct {
	path    string
	secrets atomic.Pointer[map[string]scram.Secret]
}

// LoadSecretsFile reads a file. Errors name the file and the line, and never show a secret.
func LoadSecretsFile(path string) (*SecretsFile, error) {
	f := &SecretsFile{path: path}
	return f, f.Reload()
}

// Reload reads the file again. After an error the secrets stay as they were.
func (f *SecretsFile) Reload() error {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("read secrets: %w", err)
	}
	secrets := make(map[string]scram.Secret)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == ';' || line[0] == '#' {
			continue
		}
		role, secret, err := parseSecretLine(line)
		if err != nil {
			return fmt.Errorf("read secrets: %s:%d: %w", f.path, n, err)
		}
		if _, twice := secrets[role]; twice {
			return fmt.Errorf("read secrets: %s:%d: role %q has a secret already", f.path, n, role)
		}
		secrets[role] = secret
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read secrets: %s: %w", f.path, err)
	}
	f.secrets.Store(&secrets)
	return nil
}

// Lookup returns the secret of a role; server and age make no difference.
func (f *SecretsFile) Lookup(_ context.Context, _, role string, _ time.Duration) (RoleSecret, error) {
	found := RoleSecret{Iterations: defaultIterations}
	if secret, ok := (*f.secrets.Load())[role]; ok {
		found.Secret = &secret
	}
	return found, nil
}

var errSecretLine = errors.New(`expected "role" "SCRAM-SHA-256$…"`)

func parseSecretLine(line string) (role string, secret scram.Secret, err error) {
	role, rest, ok := cutQuoted(line)
	if !ok || role == "" {
		return "", scram.Secret{}, errSecretLine
	}
	text, rest, ok := cutQuoted(strings.TrimLeft(rest, " \t"))
	if !ok || rest != "" {
		return "", scram.Secret{}, errSecretLine
	}
	secret, err = scram.ParseSecret(text)
	return role, secret, err
}

// cutQuoted splits a quoted word off the front of s.
func cutQuoted(s string) (word, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", s, false
	}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '"':
			word += s[i : i+1]
		case i+1 < len(s) && s[i+1] == '"':
			word += `"`
			i++
		default:
			return word, s[i+1:], true
		}
	}
	return "", s, false
}
