package backends

import (
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// inspect looks at a server as role monitor and returns the kinds of what it finds, with their sentences.
func inspect(t *testing.T, target Target, password string, secrets bool) ([]Finding, string) {
	t.Helper()
	found := Inspect(within(t), target, MonitorConfig{
		Credentials: Credentials{User: "monitor", Password: password, Database: "postgres"}, Timeout: patience,
	}, secrets).Findings
	return slices.Sorted(maps.Keys(found)), strings.Join(slices.Collect(maps.Values(found)), " ")
}

// What pg_hba.conf lets in unasked is found, whether it is for all roles or for the monitor's.
func TestInspectTrust(t *testing.T) {
	noLeaks(t)
	for name, test := range map[string]struct {
		hba   []string
		found []Finding
		words string
	}{
		"scram":               {nil, nil, ""},
		"md5":                 {[]string{"host all all 127.0.0.1/32 md5"}, nil, ""},
		"password for others": {[]string{"host all monitor 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 password"}, nil, ""},
		"reject of others":    {[]string{"host all monitor 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 reject"}, nil, ""},
		"trust for all":       {[]string{"host all all 127.0.0.1/32 trust"}, []Finding{FoundTrust}, "every role"},
		"trust for strangers": {[]string{"host all monitor 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust"}, []Finding{FoundTrust}, "every role"},
		"trust for monitor":   {[]string{"host all monitor 127.0.0.1/32 trust"}, []Finding{FoundTrust}, "the monitor's role"},
	} {
		t.Run(name, func(t *testing.T) {
			server := startCluster(t, pgcluster.Config{HBA: test.hba}).Server("db1")
			found, words := inspect(t, over(server, TLSOff), "s3cr3t", false)
			if !slices.Equal(found, test.found) || !strings.Contains(words, test.words) {
				t.Errorf("found %v: %s", found, words)
			}
		})
	}
}

// What the monitor lacks is found: the function for secrets, the right to call it, a login.
func TestInspectAccess(t *testing.T) {
	noLeaks(t)
	server := startCluster(t, pgcluster.Config{}).Server("db1")
	to := over(server, TLSOff)
	check := func(what string, password string, secrets bool, want []Finding, words string) {
		t.Helper()
		found, text := inspect(t, to, password, secrets)
		if !slices.Equal(found, want) || !strings.Contains(text, words) {
			t.Errorf("%s: found %v: %s", what, found, text)
		}
	}
	check("no function, none needed", "s3cr3t", false, nil, "")
	check("no function", "s3cr3t", true, []Finding{FoundNoSecrets}, "pgreplicaproxy sql")
	do(t, server.Exec(within(t), "postgres", countingFunction))
	check("function", "s3cr3t", true, nil, "")
	do(t, server.Exec(within(t), "postgres", "REVOKE EXECUTE ON FUNCTION pgreplicaproxy.scram_secret(text) FROM monitor"))
	check("function of others", "s3cr3t", true, []Finding{FoundNoSecrets}, "pgreplicaproxy sql")
	check("wrong password", "wrong", true, []Finding{FoundNoLogin}, "28P01")
	do(t, server.Stop(within(t), pgcluster.Fast))
	check("server gone", "s3cr3t", true, []Finding{FoundNoLogin}, "connection refused")
}

// A server that lets a role in without a challenge is found though the role be none of its own, and one that says nothing holds
// nobody up for longer than the timeout.
func TestInspectStrangers(t *testing.T) {
	noLeaks(t)
	for name, test := range map[string]struct {
		answer []pgproto3.BackendMessage
		asks   bool
	}{
		"scram":   {[]pgproto3.BackendMessage{&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}}, true},
		"ok":      {[]pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}, false},
		"refusal": {[]pgproto3.BackendMessage{fatal("28000", "no pg_hba.conf entry")}, true},
		"garbage": {[]pgproto3.BackendMessage{&pgproto3.DataRow{}}, true},
		"nothing": {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, func(conn net.Conn) {
				b := pgproto3.NewBackend(conn, conn)
				if got := receiveStartup(b); got["user"] != "somebody" || got["database"] != "postgres" {
					t.Errorf("startup is %v", got)
				}
				say(b, test.answer...)
			})
			asks, err := asksFor(within(t), target(address, TLSOff), "somebody", "postgres")
			if asks != test.asks || (err != nil) != (test.answer == nil) {
				t.Errorf("asks for something: %v, %v", asks, err)
			}
		})
	}
}
