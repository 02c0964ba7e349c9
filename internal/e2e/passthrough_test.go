package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// passthroughHCL is a cluster block in the mode scram_passthrough, over TLS with certificates of the servers' own.
func passthroughHCL(t *testing.T, c *pgcluster.Cluster, lines ...string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "servers.crt")
	if err := os.WriteFile(root, authority().rootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("cluster \"main\" {\n  authentication = \"scram_passthrough\"\n")
	for _, line := range prompt(lines) {
		b.WriteString("  " + line + "\n")
	}
	b.WriteString("  monitor {\n    password = file(\"monitor.password\")\n    interval = \"200ms\"\n  }\n")
	fmt.Fprintf(&b, "  backend_tls {\n    root_file = %q\n  }\n", root)
	for _, s := range c.Servers() {
		fmt.Fprintf(&b, "  backend %q {\n    address = %q\n  }\n", s.Name, net.JoinHostPort(s.Host, fmt.Sprint(s.Port)))
	}
	b.WriteString("}\n")
	return b.String()
}

// installSecretFunction runs what `pgreplicaproxy sql` prints, as an operator would.
func installSecretFunction(t *testing.T, c *pgcluster.Cluster, lines ...string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"pgreplicaproxy.hcl": passthroughHCL(t, c, lines...), "monitor.password": monitorPassword,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(binary, "sql", "--config", filepath.Join(dir, "pgreplicaproxy.hcl")).CombinedOutput()
	if err != nil {
		t.Fatalf("pgreplicaproxy sql: %v\n%s", err, out)
	}
	ctx := testContext(t)
	if err := c.Servers()[0].Exec(ctx, "postgres", string(out)); err != nil {
		t.Fatalf("run the SQL: %v\n%s", err, out)
	}
	for _, standby := range c.Servers()[1:] {
		if err := standby.WaitReplay(ctx, c.Servers()[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPassthrough logs in with channel binding required, to servers over verify-full TLS with certificates of their own.
func TestPassthrough(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := sharedCluster(t, version)
			installSecretFunction(t, c)
			p := serve(t, listenHCL+passthroughHCL(t, c))
			for name, lib := range libpqs(t) {
				for _, binding := range []string{"require", "prefer", "disable"} {
					for database, standby := range map[string]string{"app": "f", "app_replica": "t"} {
						out, stderr, err := psql(t, lib, p.dsn(database)+"&channel_binding="+binding, "-c", "SELECT pg_is_in_recovery()")
						if err != nil || out != standby {
							t.Errorf("%s, channel_binding=%s, %s: got %q, %v\n%s", name, binding, database, out, err, stderr)
						}
					}
				}
			}
			_, stderr, err := psql(t, "", strings.Replace(p.dsn("app"), appPassword, "wrong", 1), "-c", "SELECT 1")
			if err == nil || !strings.Contains(stderr, `password authentication failed for user "app"`) {
				t.Errorf("wrong password: %v\n%s", err, stderr)
			}
			_, stderr, err = psql(t, "", strings.Replace(p.dsn("app"), "//app:", "//nobody:", 1), "-c", "SELECT 1")
			if err == nil || !strings.Contains(stderr, `password authentication failed for user "nobody"`) {
				t.Errorf("unknown user: %v\n%s", err, stderr)
			}
		})
	}
}
