package certstore

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// Keys are paths with slashes, and a directory is whatever keys begin with it: "a" holds "a/b", and not "ab".

var _ certmagic.Storage = (*Store)(nil)

// Store puts a value at a key, over what is there.
func (s *Store) Store(ctx context.Context, key string, value []byte) error {
	_, err := s.run(ctx, `INSERT INTO pgreplicaproxy.certificate_files (key, value, modified) VALUES ($1, $2, now())
ON CONFLICT (key) DO UPDATE SET value = excluded.value, modified = excluded.modified`, key, value)
	return err
}

// Load returns the value at a key; fs.ErrNotExist means that there is none.
func (s *Store) Load(ctx context.Context, key string) ([]byte, error) {
	found, err := s.run(ctx, `SELECT encode(value, 'hex') FROM pgreplicaproxy.certificate_files WHERE key = $1`, key)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, notThere(key)
	}
	return hex.DecodeString(string(found[0][0]))
}

func notThere(key string) error { return fmt.Errorf("%s: %w", key, fs.ErrNotExist) }

// Delete removes a key, or all keys of a directory. There may be none.
func (s *Store) Delete(ctx context.Context, key string) error {
	_, err := s.run(ctx, `DELETE FROM pgreplicaproxy.certificate_files WHERE key = $1 OR starts_with(key, $1 || '/')`, key)
	return err
}

// Exists reports whether there is such a key or directory. A database that does not answer is one without.
func (s *Store) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List returns the keys in a directory, and with recursive those of directories in it too; directories are listed like keys.
// fs.ErrNotExist means that there is no such directory.
func (s *Store) List(ctx context.Context, directory string, recursive bool) ([]string, error) {
	prefix := strings.TrimSuffix(directory, "/")
	if prefix != "" {
		prefix += "/"
	}
	found, err := s.run(ctx, `SELECT key FROM pgreplicaproxy.certificate_files WHERE starts_with(key, $1) ORDER BY key`, prefix)
	if err != nil {
		return nil, err
	}
	var list []string
	listed := make(map[string]bool)
	add := func(key string) {
		if !listed[key] {
			listed[key] = true
			list = append(list, key)
		}
	}
	for _, row := range found {
		components := strings.Split(strings.TrimPrefix(string(row[0]), prefix), "/")
		if !recursive {
			components = components[:1]
		}
		for i := range components {
			add(prefix + strings.Join(components[:i+1], "/"))
		}
	}
	if len(list) == 0 {
		return nil, notThere(directory)
	}
	return list, nil
}

// Stat tells of a key or a directory; fs.ErrNotExist means that there is neither.
func (s *Store) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	found, err := s.run(ctx, `SELECT key = $1, length(value), extract(epoch FROM modified)::bigint FROM pgreplicaproxy.certificate_files
WHERE key = $1 OR starts_with(key, $1 || '/') ORDER BY key = $1 DESC LIMIT 1`, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	if len(found) == 0 {
		return certmagic.KeyInfo{}, notThere(key)
	}
	if string(found[0][0]) != "t" {
		return certmagic.KeyInfo{Key: key}, nil
	}
	size, sizeErr := strconv.ParseInt(string(found[0][1]), 10, 64)
	modified, err := strconv.ParseInt(string(found[0][2]), 10, 64)
	if sizeErr != nil || err != nil {
		return certmagic.KeyInfo{}, fmt.Errorf("%s: unreadable answer of the database", key)
	}
	return certmagic.KeyInfo{Key: key, Size: size, Modified: time.Unix(modified, 0), IsTerminal: true}, nil
}
