package e2e

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/acmetest"
	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// acmeSite is an ACME server with the files and the address that a program needs for it.
type acmeSite struct {
	t       *testing.T
	server  *acmetest.Server
	address string // of the program, where challenges come in too
	dir     string // roots, and what several runs of a program share
}

func newACMESite(t *testing.T, cfg acmetest.Config) *acmeSite {
	t.Helper()
	s := &acmeSite{t: t, address: "127.0.0.1:" + freePort(t), dir: t.TempDir()}
	_, port, _ := net.SplitHostPort(s.address)
	cfg.Port, _ = strconv.Atoi(port)
	s.server = acmetest.Start(t, cfg)
	for name, content := range map[string][]byte{"api.crt": s.server.APIRoot, "root.crt": s.server.Root} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// freePort is one that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

func (s *acmeSite) path(name string) string { return filepath.Join(s.dir, name) }

// hcl is a listener, the certificate of which is for db.test, with lines added to the acme block.
func (s *acmeSite) hcl(lines ...string) string {
	return fmt.Sprintf("listen {\n  address = %q\n}\n", s.address) + s.tls(lines...)
}

// tls is the tls block of hcl.
func (s *acmeSite) tls(lines ...string) string {
	return fmt.Sprintf("tls {\n  acme {\n    domains = [\"db.test\"]\n    directory = %q\n    root_file = %q\n    challenge_address = %q\n    %s\n  }\n}\n",
		s.server.Directory, s.path("api.crt"), s.address, strings.Join(lines, "\n    "))
}

// named is a connection string that verifies the program as db.test.
func (s *acmeSite) named(p *program, params ...string) string {
	return p.named("db.test", s.path("root.crt"), params...)
}

// ready is the status of a page of the admin listener, and its text.
func ready(t *testing.T, address string) (int, string) {
	t.Helper()
	response, err := http.Get("http://" + address + "/readyz/primary")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(response.Body)
	return response.StatusCode, text.String()
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// quietly checks that challenges were told neither as errors nor as sessions. Clients that do not trust the stand-in are none. They
// say so by an alert, if that comes before the end of the connection; libpq's has no encryption, so crypto/tls cannot read it.
func quietly(t *testing.T, p *program) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, entry := range p.logs {
		text := fmt.Sprint(entry["err"])
		alert := strings.Contains(text, "bad record MAC") || strings.Contains(text, "remote error: tls: bad certificate")
		if entry["msg"] == "connection refused" && entry["level"] != "DEBUG" && !alert || entry["msg"] == "session refused" {
			t.Errorf("logged %v", entry)
		}
	}
}

// The first start, with the ACME server down: clients without verification are served, readiness tells what is missing. The
// server comes back and SIGHUP makes the next attempt begin: every libpq gets in with verify-full and channel binding. A restart
// while it is down again serves what is stored.
func TestACME(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	site := newACMESite(t, acmetest.Config{BadNonces: 20})
	admin := "127.0.0.1:" + freePort(t)
	hcl := fmt.Sprintf("state_dir = %q\nlog {\n  level = \"debug\"\n  format = \"json\"\n}\nadmin {\n  address = %q\n}\n", site.path("state"), admin) +
		site.hcl() + passthroughHCL(t, c)
	start := func() *program {
		p := launch(t, hcl, nil)
		p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
		return p
	}
	site.server.Down()
	p := start()
	p.waitLog("certificate not obtained, clients are shown a stand-in", map[string]any{"name": "db.test"})
	query(t, p.dsn("app", "sslmode=require"), "SELECT 1")
	if _, stderr, err := psql(t, "", site.named(p), "-c", "SELECT 1"); err == nil || !strings.Contains(stderr, "certificate verify failed") {
		t.Errorf("the stand-in passes for the certificate: %v, %s", err, stderr)
	}
	if status, text := ready(t, admin); status != 503 || !strings.Contains(text, "no certificate for db.test yet") {
		t.Errorf("readiness %d, %s", status, text)
	}

	site.server.Up()
	p.signal(syscall.SIGHUP)
	p.waitLog("certificate obtained", map[string]any{"name": "db.test", "level": "INFO"})
	waitFor(t, "the program is ready", func() bool { status, _ := ready(t, admin); return status == 200 })
	login := func(p *program) {
		for library, libDir := range libpqs(t) {
			if out, stderr, err := psql(t, libDir, site.named(p, "channel_binding=require"), "-c", "SELECT 1"); err != nil || out != "1" {
				t.Errorf("%s: %v, %s", library, err, stderr)
			}
		}
	}
	login(p)
	quietly(t, p)
	p.stop()

	site.server.Down()
	p = start()
	login(p)
	if status, text := ready(t, admin); status != 200 {
		t.Errorf("readiness %d, %s", status, text)
	}
	command{args: []string{"ca", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl")}}.check(t, 1, nil, []string{"there is no local CA"})
}

// Challenges on an address of their own, which somebody else holds at first: clients are served, and it is told.
func TestACMEChallengeAddress(t *testing.T) {
	c := sharedCluster(t, versions[0])
	site := newACMESite(t, acmetest.Config{})
	holder, err := net.Listen("tcp", site.address)
	if err != nil {
		t.Fatal(err)
	}
	hcl := strings.Replace(site.hcl(`challenge = "http-01"`), "address = \""+site.address, "address = \"127.0.0.1:0", 1)
	p := serve(t, hcl+clusterHCL(c))
	p.waitLog("challenges of ACME cannot be answered", nil)
	query(t, p.dsn("app", "sslmode=require"), "SELECT 1")
	p.waitLog("certificate not obtained, clients are shown a stand-in", nil)
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the program listens for challenges", func() bool {
		conn, err := net.Dial("tcp", site.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	p.signal(syscall.SIGHUP)
	p.waitLog("certificate obtained", nil)
	waitFor(t, "the certificate is served", func() bool {
		_, _, err := psql(t, "", site.named(p), "-c", "SELECT 1")
		return err == nil
	})
}

// Certificates of half a minute are renewed three times and more while fifty clients log in again and again, verifying fully
// and requiring channel binding. Not one login fails, and a session of before lives on. Each client waits between two logins: a
// renewal has to be done within the last ten seconds of a certificate, by what the clients leave of the processors.
func TestACMERenewals(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	site := newACMESite(t, acmetest.Config{Lifetime: 30 * time.Second, NoARI: true})
	p := serve(t, site.hcl(`renew_check_interval = "1s"`)+passthroughHCL(t, c))
	p.waitLog("certificate obtained", nil)
	cfg, err := pgconn.ParseConfig(strings.Replace(site.named(p, "channel_binding=require"), "hostaddr=127.0.0.1", "", 1))
	if err != nil {
		t.Fatal(err)
	}
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	var first *pgconn.PgConn
	waitFor(t, "the first login", func() bool {
		var err error
		first, err = pgconn.ConnectConfig(testContext(t), cfg.Copy())
		return err == nil
	})
	defer first.Close(testContext(t))

	bound := testContext(t)
	ctx, cancel := context.WithCancel(bound)
	var clients sync.WaitGroup
	var logins, failures atomic.Int64
	for range 50 {
		clients.Go(func() {
			for ctx.Err() == nil {
				conn, err := pgconn.ConnectConfig(bound, cfg.Copy())
				if err != nil {
					failures.Add(1)
					t.Errorf("login: %v", err)
					return
				}
				_ = conn.Close(bound)
				logins.Add(1)
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Second):
				}
			}
		})
	}
	seen := 0
	for range 3 {
		p.waitLogSince(seen, "certificate renewed", nil)
		seen = p.logged()
	}
	cancel()
	clients.Wait()
	if _, err := first.Exec(testContext(t), "SELECT 1").ReadAll(); err != nil {
		t.Errorf("the session of before: %v", err)
	}
	quietly(t, p)
	t.Logf("%d logins, %d failures", logins.Load(), failures.Load())
}

// Two programs that share a directory need one order; either serves the certificate.
func TestACMESharedDirectory(t *testing.T) {
	c := sharedCluster(t, versions[0])
	site := newACMESite(t, acmetest.Config{})
	first := serve(t, site.hcl(fmt.Sprintf("storage_dir = %q", site.path("shared")))+clusterHCL(c))
	second := serve(t, listenHCL+site.tls(fmt.Sprintf("storage_dir = %q", site.path("shared")))+clusterHCL(c))
	for _, p := range []*program{first, second} {
		waitFor(t, "a login with verification", func() bool {
			_, _, err := psql(t, "", site.named(p), "-c", "SELECT 1")
			return err == nil
		})
	}
	if !bytes.Equal(presented(t, first, "db.test"), presented(t, second, "db.test")) {
		t.Error("the programs have different certificates")
	}
	if n := site.server.Count(acmetest.Finalize); n != 1 {
		t.Errorf("%d orders, want one", n)
	}
	// With the directory gone, a program starts with its copy.
	if err := os.Rename(site.path("shared"), site.path("gone")); err != nil {
		t.Fatal(err)
	}
	site.server.Down()
	state := filepath.Join(first.dir, "state")
	first.stop()
	again := launch(t, fmt.Sprintf("state_dir = %q\nlog {\n  level = \"debug\"\n  format = \"json\"\n}\n", state)+
		site.hcl(fmt.Sprintf("storage_dir = %q", site.path("shared")))+clusterHCL(c), nil)
	again.addr = fmt.Sprint(again.waitLog("listening", nil)["address"])
	query(t, site.named(again), "SELECT 1")
}

// Two programs that share a database need one order; with the database down, one starts with its copy and renews when it is back.
func TestACMESharedDatabase(t *testing.T) {
	c := sharedCluster(t, versions[0])
	database := startCluster(t, pgcluster.Config{}).Servers()[0]
	site := newACMESite(t, acmetest.Config{})
	shared := fmt.Sprintf("storage_dsn = \"host=%s port=%d user=%s dbname=postgres\"", database.SocketDir, database.Port, pgcluster.SuperuserName)
	first := serve(t, site.hcl(shared)+clusterHCL(c))
	second := serve(t, listenHCL+site.tls(shared)+clusterHCL(c))
	verified := func(p *program) bool {
		_, _, err := psql(t, "", site.named(p), "-c", "SELECT 1")
		return err == nil
	}
	for _, p := range []*program{first, second} {
		waitFor(t, "a login with verification", func() bool { return verified(p) })
	}
	if !bytes.Equal(presented(t, first, "db.test"), presented(t, second, "db.test")) {
		t.Error("the programs have different certificates")
	}
	if n := site.server.Count(acmetest.Finalize); n != 1 {
		t.Errorf("%d orders, want one", n)
	}
	if keys, err := database.QueryString(testContext(t), "postgres", "SELECT count(*) FROM pgreplicaproxy.certificate_files WHERE key LIKE '%/db.test.key'"); err != nil || keys != "1" {
		t.Errorf("%s keys in the database, %v", keys, err)
	}

	if err := database.Stop(testContext(t), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(first.dir, "state")
	first.stop()
	hcl := fmt.Sprintf("state_dir = %q\nlog {\n  level = \"debug\"\n  format = \"json\"\n}\n", state) + site.hcl(shared, `renew_check_interval = "1s"`) + clusterHCL(c)
	again := launch(t, hcl, nil)
	again.addr = fmt.Sprint(again.waitLog("listening", nil)["address"])
	if !verified(again) {
		t.Error("no login with the database down")
	}
	if err := database.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	old := presented(t, again, "db.test")
	leaf, err := x509.ParseCertificate(old)
	if err != nil {
		t.Fatal(err)
	}
	site.server.RenewNow(leaf)
	waitFor(t, "the certificate is renewed", func() bool { return !bytes.Equal(presented(t, again, "db.test"), old) && verified(again) })
}

// The program is killed in the middle of an order, and orders again when it is started again.
func TestACMEKilled(t *testing.T) {
	c := sharedCluster(t, versions[0])
	site := newACMESite(t, acmetest.Config{})
	hcl := fmt.Sprintf("state_dir = %q\nlog {\n  level = \"debug\"\n  format = \"json\"\n}\n", site.path("state")) + site.hcl() + clusterHCL(c)
	hold := site.server.Hold(acmetest.Finalize)
	p := launch(t, hcl, nil)
	select {
	case <-hold.Reached:
	case <-time.After(patience):
		t.Fatal("no order")
	}
	p.signal(syscall.SIGKILL)
	<-p.done
	p.err = nil // as it should be
	hold.Release()
	p = launch(t, hcl, nil)
	p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	p.waitLog("certificate obtained", nil) // after the lock of the dead, which is believed for ten seconds
	waitFor(t, "a login with verification", func() bool {
		_, _, err := psql(t, "", site.named(p), "-c", "SELECT 1")
		return err == nil
	})
}

// A state directory that is full or cannot be written to is told with the reason, and clients are served.
func TestACMEStateDirectory(t *testing.T) {
	c := sharedCluster(t, versions[0])
	for _, test := range []struct{ name, mount, want string }{
		{"full", "size=4k", "no space left on device"},
		{"read-only", "ro,size=64k", "read-only file system"},
	} {
		t.Run(test.name, func(t *testing.T) {
			site := newACMESite(t, acmetest.Config{})
			p := &program{t: t, dir: t.TempDir(), done: make(chan struct{}), more: make(chan struct{})}
			p.write("monitor.password", monitorPassword)
			p.write("pgreplicaproxy.hcl", fmt.Sprintf("state_dir = %q\nlog {\n  level = \"debug\"\n  format = \"json\"\n}\n", site.path("state"))+site.hcl()+clusterHCL(c))
			if err := os.Mkdir(site.path("state"), 0o700); err != nil {
				t.Fatal(err)
			}
			// A file system of its own, in a name space of its own.
			script := `mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"`
			p.cmd = exec.Command("unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", test.mount, site.path("state"),
				binary, "serve", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl"))
			p.cmd.Env = cleanEnvironment()
			stderr, err := p.cmd.StderrPipe()
			if err = errors.Join(err, p.cmd.Start()); err != nil {
				t.Fatal(err)
			}
			go p.follow(stderr)
			t.Cleanup(p.stop)
			p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
			entry := p.waitLog("certificate not obtained, clients are shown a stand-in", nil)
			if text := fmt.Sprint(entry["err"]); !strings.Contains(text, test.want) {
				t.Errorf("told %q, want %q in it", text, test.want)
			}
			query(t, p.dsn("app", "sslmode=require"), "SELECT 1")
		})
	}
}

// status is the JSON that the status command prints.
func (p *program) status(t *testing.T) string {
	t.Helper()
	return command{args: []string{"status", "--json", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl")}}.check(t, 0, []string{"certificates"}, nil)
}

// A reload takes another domain in, and another challenge on the same address, and keeps the certificate that is there.
func TestACMEReload(t *testing.T) {
	c := sharedCluster(t, versions[0])
	site := newACMESite(t, acmetest.Config{})
	hcl := strings.Replace(site.hcl(), "address = \""+site.address, "address = \"127.0.0.1:0", 1) + clusterHCL(c)
	p := serve(t, hcl)
	p.waitLog("certificate obtained", map[string]any{"name": "db.test"})
	waitFor(t, "the certificate is served", func() bool {
		_, _, err := psql(t, "", site.named(p), "-c", "SELECT 1")
		return err == nil
	})
	first := presented(t, p, "db.test")
	session := connect(t, p.dsn("app", "sslmode=require"))
	text, err := os.ReadFile(filepath.Join(p.dir, "pgreplicaproxy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `domains = ["db.test"]`, "domains = [\"db.test\", \"other.test\"]\n    challenge = \"http-01\"", 1)
	p.write("pgreplicaproxy.hcl", changed)
	p.signal(syscall.SIGHUP)
	p.waitLog("certificate obtained", map[string]any{"name": "other.test"})
	waitFor(t, "the other certificate is served", func() bool {
		_, _, err := psql(t, "", p.named("other.test", site.path("root.crt")), "-c", "SELECT 1")
		return err == nil
	})
	if !bytes.Equal(presented(t, p, "db.test"), first) {
		t.Error("the certificate that was there is another one now")
	}
	if _, err := session.Exec(testContext(t), "SELECT 1").ReadAll(); err != nil {
		t.Errorf("the session of before: %v", err)
	}
	if status := p.status(t); !strings.Contains(status, `"other.test"`) || !strings.Contains(status, `"acme"`) || !strings.Contains(status, "Pebble") {
		t.Errorf("status: %s", status)
	}
	quietly(t, p)
}

// The one that orders is not the one that the ACME server asks: whoever is asked answers, by what they share.
func TestACMEAnsweredByAnother(t *testing.T) {
	c := sharedCluster(t, versions[0])
	site := newACMESite(t, acmetest.Config{})
	shared := fmt.Sprintf("storage_dir = %q", site.path("shared"))
	hold := site.server.Hold(acmetest.NewOrder)
	elsewhere := strings.Replace(site.tls(shared), site.address, "127.0.0.1:"+freePort(t), 1)
	orders := serve(t, listenHCL+elsewhere+clusterHCL(c))
	select {
	case <-hold.Reached:
	case <-time.After(patience):
		t.Fatal("no order")
	}
	answers := serve(t, site.hcl(shared)+clusterHCL(c))
	hold.Release()
	for _, p := range []*program{orders, answers} {
		waitFor(t, "a login with verification", func() bool {
			_, _, err := psql(t, "", site.named(p), "-c", "SELECT 1")
			return err == nil
		})
	}
	answers.waitLog("acme", map[string]any{"step": "served key authentication certificate", "distributed": true})
	if n := site.server.Count(acmetest.Finalize); n != 1 {
		t.Errorf("%d orders, want one", n)
	}
}
