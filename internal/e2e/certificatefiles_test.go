package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// certificateFiles are pairs in a directory, with the root that vouches for them.
type certificateFiles struct {
	t   *testing.T
	dir string
}

func newCertificateFiles(t *testing.T) certificateFiles {
	t.Helper()
	f := certificateFiles{t: t, dir: t.TempDir()}
	f.write("root.crt", authority().rootPEM())
	return f
}

func (f certificateFiles) path(name string) string { return filepath.Join(f.dir, name) }

func (f certificateFiles) write(name string, content []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), content, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// issue writes a pair for the names, and returns the certificate as it will be presented.
func (f certificateFiles) issue(base string, names ...string) (der []byte) {
	f.t.Helper()
	cert, key := authority().issue(names...)
	f.write(base+".crt", cert)
	f.write(base+".key", key)
	block, _ := pem.Decode(cert)
	return block.Bytes
}

// hcl is a tls block with these pairs.
func (f certificateFiles) hcl(bases ...string) string {
	var b strings.Builder
	b.WriteString("tls {\n")
	for _, base := range bases {
		fmt.Fprintf(&b, "  certificate {\n    cert_file = %q\n    key_file  = %q\n  }\n", f.path(base+".crt"), f.path(base+".key"))
	}
	b.WriteString("}\n")
	return b.String()
}

// presented is the certificate that the program shows a client that asks for a name, none if that is empty.
func presented(t *testing.T, p *program, name string) []byte {
	t.Helper()
	client := p.dialRaw(t)
	defer func() { _ = client.Close() }()
	client.say(sslRequest)
	if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	secure := tls.Client(client, &tls.Config{InsecureSkipVerify: true, ServerName: name, NextProtos: []string{"postgresql"}})
	if err := secure.Handshake(); err != nil {
		t.Fatal(err)
	}
	return secure.ConnectionState().PeerCertificates[0].Raw
}

// named is a connection string for psql that verifies the program under a name, which need not be known to the resolver.
func (p *program) named(host, root string, params ...string) string {
	p.t.Helper()
	address, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf("host=%s hostaddr=%s port=%s user=%s password=%s dbname=app sslmode=verify-full sslrootcert=%s %s",
		host, address, port, appUser, appPassword, root, strings.Join(params, " "))
}

// Each client gets the certificate for the name that it asks for, and one that asks for none, or for another, the first.
func TestCertificatesByName(t *testing.T) {
	c := sharedCluster(t, versions[0])
	f := newCertificateFiles(t)
	der := map[string][]byte{
		"first": f.issue("first", "first.test"), "second": f.issue("second", "second.test", "too.test"), "wild": f.issue("wild", "*.wild.test"),
	}
	p := serve(t, listenHCL+f.hcl("first", "second", "wild")+clusterHCL(c))
	for name, want := range map[string]string{
		"": "first", "first.test": "first", "second.test": "second", "SECOND.test": "second", "too.test": "second",
		"any.wild.test": "wild", "other.test": "first", "wild.test": "first", "127.0.0.1": "first",
	} {
		if got := presented(t, p, name); !bytes.Equal(got, der[want]) {
			t.Errorf("client that asks for %q does not get the %s certificate", name, want)
		}
	}
	const mismatch = "does not match host name"
	for library, libDir := range libpqs(t) {
		for _, test := range []struct{ host, params, wantError string }{
			{"first.test", "", ""},
			{"second.test", "", ""},
			{"too.test", "", ""},
			{"any.wild.test", "", ""},
			{"127.0.0.1", "", ""},
			{"first.test", "sslsni=0", ""},
			{"second.test", "sslsni=0", mismatch},
			{"other.test", "", mismatch},
		} {
			_, stderr, err := psql(t, libDir, p.named(test.host, f.path("root.crt"), test.params), "-c", "SELECT 1")
			if (err == nil) != (test.wantError == "") || !strings.Contains(stderr, test.wantError) {
				t.Errorf("%s, %s %s: %v, %q; want %q", library, test.host, test.params, err, stderr, test.wantError)
			}
		}
		_, stderr, err := psql(t, libDir, p.named("first.test", serve(t, listenHCL+clusterHCL(c)).rootFile()), "-c", "SELECT 1")
		if err == nil || !strings.Contains(stderr, "certificate verify failed") {
			t.Errorf("%s with another root: %v, %q", library, err, stderr)
		}
	}
	command{args: []string{"ca", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl")}}.check(t, 1, nil, []string{"there is no local CA"})
}

// SIGHUP brings in new files for new clients and disturbs no session; files that do not fit leave everything as it is.
func TestCertificateReload(t *testing.T) {
	c := sharedCluster(t, versions[0])
	f := newCertificateFiles(t)
	other := f.issue("other", "other.test")
	first := f.issue("db", "db.test")
	p := serve(t, listenHCL+f.hcl("db", "other")+clusterHCL(c))
	check := func(stage string, want []byte) {
		t.Helper()
		for name, want := range map[string][]byte{"db.test": want, "other.test": other} {
			if got := presented(t, p, name); !bytes.Equal(got, want) {
				t.Errorf("%s: wrong certificate for %s", stage, name)
			}
		}
		query(t, p.named("db.test", f.path("root.crt")), "SELECT 1")
	}
	reload := func(message string) map[string]any {
		t.Helper()
		seen := p.logged()
		p.signal(syscall.SIGHUP)
		return p.waitLogSince(seen, message, nil)
	}
	const reloaded, kept = "configuration reloaded", "configuration not reloaded, the old one stays"
	session := connect(t, p.dsn("app", "sslmode=verify-full", "sslrootcert="+f.path("root.crt")))
	check("at the start", first)
	reload(reloaded)
	check("nothing new", first)
	second := f.issue("db", "db.test")
	check("before the signal", first)
	reload(reloaded)
	check("after the signal", second)

	for name, breakIt := range map[string]func(){
		"another key":    func() { _, key := authority().issue("db.test"); f.write("db.key", key) },
		"half a file":    func() { f.write("db.crt", []byte("-----BEGIN CERTIFICATE-----\nMII")) },
		"no file":        func() { _ = os.Remove(f.path("db.crt")) },
		"one of several": func() { f.issue("db", "db.test"); f.write("other.key", nil) },
	} {
		breakIt()
		seen := p.logged()
		reload(kept)
		if entry := p.waitLogSince(seen, "configuration", nil); entry["level"] != "ERROR" || !strings.Contains(fmt.Sprint(entry["detail"]), f.dir) {
			t.Errorf("%s: the log says %v, want an error that names the file", name, entry)
		}
		check(name, second)
	}
	other = f.issue("other", "other.test")
	third := f.issue("db", "db.test")
	reload(reloaded)
	check("mended", third)
	ask(t, session, "SELECT 1")
}

// The local CA makes sslmode=verify-full work from the first minute, under every name the program has.
func TestLocalCA(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+"tls {\n  names = [\"db.internal.test\", \"*.wild.test\", \"192.0.2.7\"]\n}\n"+clusterHCL(c))
	for library, libDir := range libpqs(t) {
		for dsn, wantError := range map[string]string{
			p.dsn("app"): "",
			p.named("localhost", p.rootFile(), "hostaddr="):       "", // the resolver's own
			p.named("db.internal.test", p.rootFile()):             "",
			p.named("DB.internal.test", p.rootFile()):             "",
			p.named("one.wild.test", p.rootFile()):                "",
			p.named("192.0.2.7", p.rootFile()):                    "",
			p.named("db.internal.test", p.rootFile(), "sslsni=0"): "",
			p.named("another.test", p.rootFile()):                 "does not match host name",
			p.named("192.0.2.8", p.rootFile()):                    "does not match host name",
		} {
			_, stderr, err := psql(t, libDir, dsn, "-c", "SELECT 1")
			if (err == nil) != (wantError == "") || !strings.Contains(stderr, wantError) {
				t.Errorf("%s, %s: %v, %q; want %q", library, dsn, err, stderr, wantError)
			}
		}
	}
}

// caRoot is what `ca` prints for a configuration.
func caRoot(t *testing.T, config string) []byte {
	t.Helper()
	printed := command{args: []string{"ca", "--config", config}}.check(t, 0, []string{"BEGIN CERTIFICATE"}, nil)
	block, rest := pem.Decode([]byte(printed))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("ca prints %q, want one certificate", printed)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !root.IsCA {
		t.Fatalf("ca prints a certificate that is no root: %v", err)
	}
	return []byte(printed)
}

// The root is made once, for whoever comes first, kept where only its user can read it, and shared by all that have the
// same state directory, now and after a restart.
func TestStateDirectory(t *testing.T) {
	c := sharedCluster(t, versions[0])
	state := filepath.Join(t.TempDir(), "deep", "state")
	root := filepath.Join(t.TempDir(), "root.crt")
	hcl := fmt.Sprintf("state_dir = %q\n", state) + listenHCL + clusterHCL(c)

	programs := make([]*program, 3)
	for i := range programs {
		programs[i] = launch(t, hcl, nil) // all at once, on a directory that is not there
	}
	for _, p := range programs {
		p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	}
	config := filepath.Join(programs[0].dir, "pgreplicaproxy.hcl")
	first := caRoot(t, config)
	if err := os.WriteFile(root, first, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		query(t, p.dsn("app", "sslmode=verify-full", "sslrootcert="+root), "SELECT 1")
	}
	for path, want := range map[string]os.FileMode{
		state: os.ModeDir | 0o700, filepath.Join(state, "ca"): os.ModeDir | 0o700, filepath.Join(state, "ca", "root.pem"): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want mode %v", path, info, want)
		}
	}
	if files, err := os.ReadDir(filepath.Join(state, "ca")); err != nil || len(files) != 1 {
		t.Errorf("the directory of the CA holds %v, %v, want one file", files, err)
	}

	for _, p := range programs {
		p.signal(syscall.SIGTERM)
		p.waitEnd()
	}
	if again := caRoot(t, config); !bytes.Equal(again, first) {
		t.Error("the root changed when the programs stopped")
	}
	restarted := launch(t, hcl, nil)
	restarted.addr = fmt.Sprint(restarted.waitLog("listening", nil)["address"])
	query(t, restarted.dsn("app", "sslmode=verify-full", "sslrootcert="+root), "SELECT 1")

	if err := os.Chmod(filepath.Join(state, "ca", "root.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca", "serve"} { // others may have the key by now
		command{args: []string{name, "--config", config}}.check(t, 1, nil, []string{"root.pem", "can be read by other users", "chmod 0600"})
	}
}
