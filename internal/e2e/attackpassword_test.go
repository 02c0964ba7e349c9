package e2e

import "testing"

// CVE-2025-46801 (pgpool): a wrong password stays wrong after the right one was seen, whatever the proxy remembers, and while the
// server cannot be asked.
func TestAttackWrongPasswordAfterRightOne(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	for name, hcl := range map[string]string{"relay": clusterHCL(c), "scram_passthrough": passthroughHCL(t, c)} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, listenHCL+hcl)
			for _, database := range []string{"app", "app_replica"} {
				wrong := func() {
					t.Helper()
					if got := connectError(t, asUser(p.dsn(database), appUser, "wrong")); got.Code != "28P01" {
						t.Errorf("%s: got %v, want 28P01", database, got)
					}
				}
				wrong() // nothing remembered
				connect(t, p.dsn(database))
				wrong() // while a session with the right one is open
				conn := connect(t, p.dsn(database))
				if err := conn.Close(testContext(t)); err != nil {
					t.Fatal(err)
				}
				wrong() // after one was closed
			}
		})
	}
}
