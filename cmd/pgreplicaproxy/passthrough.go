package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
)

// openClusters returns the clusters of the configuration with their state files, keys and secrets.
func openClusters(cfg *config) ([]proxy.ClusterConfig, error) {
	clusters := slices.Clone(cfg.Clusters)
	for i := range clusters {
		m := &clusters[i].Monitor
		m.StateFile = filepath.Join(cfg.StateDir, "roles", m.Cluster+".json")
		if err := backends.CheckStateFile(m.StateFile); err != nil {
			return nil, err
		}
		p, ok := cfg.Passthrough[m.Cluster]
		if !ok {
			continue
		}
		key, err := mockKey(p.MockKeyFile, cfg.StateDir)
		if err != nil {
			return nil, err
		}
		clusters[i].Passthrough = &proxy.Passthrough{MockKey: key, Superusers: p.Superusers}
		if p.SecretsFile == "" {
			continue // the servers are asked
		}
		file, err := backends.LoadSecretsFile(p.SecretsFile)
		if err != nil {
			return nil, err
		}
		clusters[i].Passthrough.Lookup = file.Lookup
	}
	return clusters, nil
}

// mockKeySize is that of the hash it goes into.
const mockKeySize = 32

// mockKey reads the key of answers for unknown roles from its file, or from the state directory, where it is made once.
func mockKey(file, stateDir string) ([]byte, error) {
	made := file == ""
	if made {
		file = filepath.Join(stateDir, "mock.key")
	}
	key, err := os.ReadFile(file)
	if made && errors.Is(err, fs.ErrNotExist) {
		key, err = makeMockKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("key for unknown roles: %w", err)
	}
	if len(key) < mockKeySize {
		return nil, fmt.Errorf("key for unknown roles: %s has %d bytes, and needs %d random ones", file, len(key), mockKeySize)
	}
	return key, nil
}

// makeMockKey makes the key's file.
func makeMockKey(file string) ([]byte, error) {
	key := make([]byte, mockKeySize)
	_, _ = rand.Read(key) // never fails
	return makeOnce(file, key)
}

// makeOnce makes a file for this user alone, with its directory, and returns its content. Of several that do so at once all get
// what the first has written.
func makeOnce(file string, content []byte) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	_, err = temporary.Write(content)
	if err := errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(temporary.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(file)
}
