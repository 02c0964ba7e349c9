package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// checkServersCommand runs `pgreplicaproxy check --servers` with a configuration.
func checkServersCommand(t *testing.T, hcl string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	p := &program{t: t, dir: dir}
	p.write("monitor.password", monitorPassword)
	p.write("pgreplicaproxy.hcl", hcl)
	cmd := exec.Command(binary, "check", "--servers", "--config", filepath.Join(dir, "pgreplicaproxy.hcl"))
	cmd.Env = cleanEnvironment()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A server that trusts the proxy's address, and one that lacks the function for secrets, are told by the command before the
// program serves, and by the log while it does. When they are mended, both say so.
func TestAccessAudit(t *testing.T) {
	c := startCluster(t, pgcluster.Config{TLS: serverCertificate, HBA: []string{"host all anybody,pgreplicaproxy_stranger 127.0.0.1/32 trust"}})
	hcl := passthroughHCL(t, c)
	out, err := checkServersCommand(t, hcl)
	if err == nil || !strings.Contains(out, "main/db1: trust: ") || !strings.Contains(out, "main/db1: no secrets: ") ||
		!strings.Contains(out, "2 things to mend") {
		t.Errorf("check --servers: %v\n%s", err, out)
	}
	p := serve(t, listenHCL+hcl)
	for _, finding := range []string{"trust", "no secrets"} {
		entry := p.waitLog("server access", map[string]any{"finding": finding, "backend": "db1"})
		if entry["level"] != "WARN" {
			t.Errorf("logged as %v", entry)
		}
	}

	status := exec.Command(binary, "status", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl"))
	told, err := status.Output()
	if err != nil || !strings.Contains(string(told), "db1: pg_hba.conf lets every role in") || !strings.Contains(string(told), "pgreplicaproxy sql") {
		t.Errorf("status: %v\n%s", err, told)
	}

	installSecretFunction(t, c)
	mended, err := checkServersCommand(t, clusterHCL(sharedCluster(t, versions[0])))
	if err != nil || strings.Count(mended, ": ok\n") != 3 {
		t.Errorf("check --servers: %v\n%s", err, mended)
	}
	if out, err = checkServersCommand(t, hcl); err == nil || strings.Contains(out, "no secrets") || !strings.Contains(out, "1 thing to mend") {
		t.Errorf("check --servers: %v\n%s", err, out)
	}
}

// A superuser logs in only where the file allows it, and the function was made so.
func TestPassthroughSuperusers(t *testing.T) {
	c := startCluster(t, pgcluster.Config{TLS: serverCertificate})
	createRoles(t, c, map[string]string{"admin": "LOGIN SUPERUSER PASSWORD 'secret'"})
	installSecretFunction(t, c, "allow_superusers = true")
	p := serve(t, listenHCL+passthroughHCL(t, c, "allow_superusers = true"))
	if got := query(t, asUser(p.dsn("app"), "admin", "secret"), "SELECT current_user"); got != "admin" {
		t.Errorf("the superuser is %q", got)
	}
	careful := serve(t, listenHCL+passthroughHCL(t, c)) // though the function tells
	if told := connectError(t, asUser(careful.dsn("app"), "admin", "secret")); told.Code != "28P01" {
		t.Errorf("the superuser is told %v, want 28P01", told)
	}
	installSecretFunction(t, c)
	again := serve(t, listenHCL+passthroughHCL(t, c, "allow_superusers = true")) // though the function tells nothing
	if told := connectError(t, asUser(again.dsn("app"), "admin", "secret")); told.Code != "28P01" {
		t.Errorf("the superuser is told %v, want 28P01", told)
	}
}

// The status tells what channel binding is worth on the way to each server.
func TestBindingStatus(t *testing.T) {
	cert, key := authority().issue("db1.test")
	c := startCluster(t, pgcluster.Config{TLS: func(string) ([]byte, []byte) { return cert, key }})
	other := leg{"TLS leg", true}.hcl(t)
	for name, test := range map[string]struct{ hcl, want string }{
		"plain":       {listenHCL + clusterHCL(c), "plain"},
		"broken":      {listenHCL + clusterHCL(c, other...), "broken"},
		"end-to-end":  {listenHCL + certificateHCL(t, cert, key) + clusterHCL(c, other...), "end-to-end"},
		"passthrough": {listenHCL + passthroughHCL(t, c), "passthrough"},
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, test.hcl)
			out, err := exec.Command(binary, "status", "--json", "--config", filepath.Join(p.dir, "pgreplicaproxy.hcl")).Output()
			if err != nil {
				t.Fatalf("status: %v\n%s", err, out)
			}
			var status struct {
				Clusters []struct {
					Servers []struct {
						Name   string
						Access struct{ Binding string }
					}
				}
			}
			if err := json.Unmarshal(out, &status); err != nil {
				t.Fatal(err)
			}
			if got := status.Clusters[0].Servers[0]; got.Name != "db1" || got.Access.Binding != test.want {
				t.Errorf("got %+v, want %s", got, test.want)
			}
		})
	}
}
