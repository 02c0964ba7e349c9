package tlsfront

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// watching runs CertificateFiles.Watch and gathers what it tells.
func watching(t *testing.T, files *CertificateFiles) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan error)
	var done sync.WaitGroup
	done.Go(func() {
		files.Watch(ctx, 20*time.Millisecond, func(err error) {
			select {
			case told <- err:
			case <-ctx.Done():
			}
		})
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return told
}

// next waits for what is told.
func next(t *testing.T, told <-chan error) error {
	t.Helper()
	select {
	case err := <-told:
		return err
	case <-time.After(patience):
		t.Fatal("nothing told")
		return nil
	}
}

// New files are taken into use by themselves; broken ones are told once and change nothing until they are mended.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	certPEM, keyPEM := pemPair(t, "ecdsa", names("a.example.com"))
	pair := writePair(t, dir, "a", certPEM, keyPEM)
	files, err := LoadCertificateFiles([]CertificateFile{pair})
	if err != nil {
		t.Fatal(err)
	}
	told := watching(t, files)
	served := func() []byte { return files.Leaves()[0].Raw }
	first := served()

	certPEM, keyPEM = pemPair(t, "ecdsa", names("a.example.com"))
	writeFile(t, pair.CertFile, certPEM, 0o644)
	err = next(t, told)
	if err == nil || !bytes.Equal(served(), first) {
		t.Errorf("certificate without its key: %v", err)
	}
	if status := files.Certificates()[0]; status.LastError != err.Error() || status.LastErrorAt.IsZero() || status.File != pair.CertFile {
		t.Errorf("status %+v", status)
	}
	select {
	case err := <-told:
		t.Errorf("told again: %v", err)
	case <-time.After(200 * time.Millisecond): // ten looks at it
	}
	writeFile(t, pair.KeyFile, keyPEM, 0o600)
	if err := next(t, told); err != nil || bytes.Equal(served(), first) {
		t.Errorf("mended: %v", err)
	}
	if status := files.Certificates()[0]; status.LastError != "" || status.Source != "file" || status.ExpiresSoon(time.Now()) {
		t.Errorf("status %+v", status)
	}

	second := served()
	if err := os.Remove(pair.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := next(t, told); !errors.Is(err, os.ErrNotExist) || !bytes.Equal(served(), second) {
		t.Errorf("key removed: %v", err)
	}
}

// Kubernetes exchanges one symbolic link; files that are merely written again are no news.
func TestWatchExchangedLink(t *testing.T) {
	dir := t.TempDir()
	publish := func(version string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM := pemPair(t, "ecdsa", names(version))
		writePair(t, filepath.Join(dir, version), "tls", certPEM, keyPEM)
		next := filepath.Join(dir, "..next")
		if err := errors.Join(os.Symlink(version, next), os.Rename(next, filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	publish("v1")
	files, err := LoadCertificateFiles([]CertificateFile{{filepath.Join(dir, "..data", "tls.crt"), filepath.Join(dir, "..data", "tls.key")}})
	if err != nil {
		t.Fatal(err)
	}
	told := watching(t, files)
	same, err := os.ReadFile(filepath.Join(dir, "v1", "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "v1", "tls.crt"), same, 0o644)
	publish("v2")
	if err := next(t, told); err != nil || files.Leaves()[0].Subject.CommonName != "v2" {
		t.Errorf("told %v, served %v", err, files.Leaves()[0].Subject)
	}
}

// A name that a file is for, or that nobody asks for, gets the file's certificate; a domain of ACME gets that one's, or its stand-in.
func TestFilesBesideACME(t *testing.T) {
	files := loadPairs(t, names("file.example.com"))
	standIn, err := OpenLocalCA("", []string{"acme.example.com"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewACME(ACMEConfig{
		Domains: []string{"acme.example.com", "file.example.com", "10.0.0.1"}, Dir: t.TempDir(), Challenge: ChallengeDNS, DNS: &DNSSolver{},
		StandIn: standIn.GetCertificate,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	defer a.Run(ctx)
	server := ServerConfig(files.Beside(a), 0)
	for name, want := range map[string]string{
		"file.example.com": "file.example.com", "": "file.example.com", "other.example.com": "file.example.com", "acme.example.com": "pgreplicaproxy",
	} {
		s := shake(t, server, careless(name))
		s.presented(t)
		if got := s.client.PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("%q: got the certificate of %q, want %q", name, got, want)
		}
	}
}
