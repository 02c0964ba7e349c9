package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const explainedFile = `cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11" }
}
access {
  action = "refuse"
  user   = "mallory"
  reason = "left the company"
}
access {
  action = "allow"
  from   = ["10.0.0.0/8", "unix"]
}
access {
  action             = "allow"
  tls                = "required"
  client_certificate = "required"
}
`

func TestExplain(t *testing.T) {
	setConfigEnvironment(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "test.hcl")
	if err := os.WriteFile(path, []byte(explainedFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ args, want string }{
		{
			"user=app database=app_replica from=10.1.2.3",
			`access: block 2 of the file: action = "allow", from = ["unix", "10.0.0.0/8"]
route:  number 1, to a replica of cluster "main" as database "app"
exit code 0
`,
		},
		{
			"user=app from=unix",
			`access: block 2 of the file: action = "allow", from = ["unix", "10.0.0.0/8"]
route:  number 2, to the primary of cluster "main" as database "app"
exit code 0
`,
		},
		{
			"user=app from=192.0.2.1 client_certificate=true sni=db.example.com",
			`access: block 3 of the file: action = "allow", tls = "required", client_certificate = "required"
route:  number 2, to the primary of cluster "main" as database "app"
exit code 0
`,
		},
		{
			"user=mallory from=10.1.2.3 tls=false",
			`access: block 1 of the file: action = "refuse", user = "mallory", reason = "left the company"
route:  number 2, to the primary of cluster "main" as database "mallory"
pgreplicaproxy: refused: an access rule refuses host "10.1.2.3", user "mallory", database "mallory", no encryption: left the company
exit code 1
`,
		},
		{
			"user=app from=192.0.2.1 replication=true",
			`access: no block takes it
route:  none
pgreplicaproxy: refused: no access rule for host "192.0.2.1", user "app", database "app", TLS
exit code 1
`,
		},
		{
			"user=pgreplicaproxy from=10.0.0.1",
			`access: block 2 of the file: action = "allow", from = ["unix", "10.0.0.0/8"]
route:  number 2, to the primary of cluster "main" as database "pgreplicaproxy"
pgreplicaproxy: refused: "pgreplicaproxy" is the monitor's role of cluster "main"
exit code 1
`,
		},
		{"database=app", "pgreplicaproxy: which user? Write user=NAME\nexit code 2\n"},
		{"user=app from=nowhere", "pgreplicaproxy: from=nowhere: ParseAddr(\"nowhere\"): unable to parse IP\nexit code 2\n"},
		{"app", "pgreplicaproxy: \"app\" describes nothing: write " + explainUsage + "\nexit code 2\n"},
		{"usr=app", "pgreplicaproxy: usr=app: unknown name: write " + explainUsage + "\nexit code 2\n"},
	} {
		args := append([]string{"check", "--config", path, "--explain"}, strings.Fields(test.args)...)
		if got := outcome(args...); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.args, got, test.want)
		}
	}
	if got := outcome("check", "--config", path, "user=app"); !strings.Contains(got, "exit code 2") {
		t.Errorf("arguments without --explain: got %s", got)
	}
}
