package e2e

import "testing"

// Access rules decide before any server hears of the client, and tell strangers nothing of roles and databases.
func TestAccess(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, `listen {
  address = "127.0.0.1:0"
  tls     = "optional"
}
access {
  action   = "refuse"
  database = "postgres"
  reason   = "ask an administrator"
}
access {
  action = "allow"
  from   = ["127.0.0.0/8"]
  tls    = "required"
  user   = "app"
}
`+clusterHCL(c))
	hint := "The access blocks of the proxy's configuration say who may come in."
	connect(t, p.dsn("app"))
	connect(t, p.dsn("app_replica"))
	for _, test := range []struct{ name, dsn, want string }{
		{
			"refused", p.dsn("postgres"),
			`an access rule refuses host "127.0.0.1", user "app", database "postgres", TLS: ask an administrator`,
		},
		{
			"refused under another name", p.dsn("postgres_replica"),
			`an access rule refuses host "127.0.0.1", user "app", database "postgres_replica", TLS: ask an administrator`,
		},
		{
			"without TLS", p.dsn("app", "sslmode=disable"),
			`no access rule for host "127.0.0.1", user "app", database "app", no encryption`,
		},
		{
			"another role", asUser(p.dsn("app"), "postgres", "wrong"),
			`no access rule for host "127.0.0.1", user "postgres", database "app", TLS`,
		},
		{
			"a role that does not exist", asUser(p.dsn("app"), "nobody", "wrong"),
			`no access rule for host "127.0.0.1", user "nobody", database "app", TLS`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			refusal{"28000", test.want, "", hint}.check(t, connectError(t, test.dsn))
		})
	}
}
