package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// acmeCluster is what a file with an acme block needs beside it.
const acmeCluster = `
cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11" }
}`

func TestACMEIsConverted(t *testing.T) {
	setConfigEnvironment(t)
	dir := t.TempDir()
	writeCertificate(t, dir, "root", time.Hour)
	for _, test := range []struct {
		name, text string
		want       tlsfront.ACMEConfig
	}{
		{
			"the least", `domains = ["db.example.com"]`,
			tlsfront.ACMEConfig{
				Domains: []string{"db.example.com"}, Challenge: tlsfront.ChallengeTLSALPN, ChallengeAddress: ":443",
				RenewCheckInterval: 10 * time.Minute, Dir: filepath.Join(dir, "state", "acme"),
			},
		},
		{
			"http-01", `
    domains              = ["DB.example.com", "2001:DB8::1"]
    email                = "ops@example.com"
    directory            = "https://acme.example.com/directory"
    profile              = "shortlived"
    challenge            = "http-01"
    renew_check_interval = "1m"
    storage_dir          = "/srv/shared"
    eab {
      key_id  = "kid-1"
      mac_key = "` + inlinePassword + `"
    }`,
			tlsfront.ACMEConfig{
				Domains: []string{"db.example.com", "2001:db8::1"}, Email: "ops@example.com", Directory: "https://acme.example.com/directory",
				Profile: "shortlived", Challenge: tlsfront.ChallengeHTTP, ChallengeAddress: ":80", RenewCheckInterval: time.Minute,
				Dir: filepath.Join(dir, "state", "acme"), SharedDir: "/srv/shared", EAB: &tlsfront.EAB{KeyID: "kid-1", MACKey: inlinePassword},
			},
		},
		{
			"dynamic updates", `
    domains   = ["*.example.com"]
    challenge = "dns-01"
    dns {
      server     = "ns1.example.com"
      key_name   = "acme-update"
      key_secret = "` + inlinePassword + `"
      resolvers  = ["192.0.2.53", "[2001:db8::53]:5353"]
    }`,
			tlsfront.ACMEConfig{
				Domains: []string{"*.example.com"}, Challenge: tlsfront.ChallengeDNS, RenewCheckInterval: 10 * time.Minute,
				Dir: filepath.Join(dir, "state", "acme"),
				DNS: &tlsfront.DNSSolver{
					Server: "ns1.example.com:53", Resolvers: []string{"192.0.2.53:53", "[2001:db8::53]:5353"},
					Key: &tlsfront.TSIGKey{Name: "acme-update", Algorithm: "hmac-sha256", Secret: inlinePassword},
				},
			},
		},
		{
			"a program", `
    domains   = ["db.example.com"]
    challenge = "dns-01"
    dns { exec = ["bin/hook", "arg"] }`,
			tlsfront.ACMEConfig{
				Domains: []string{"db.example.com"}, Challenge: tlsfront.ChallengeDNS, RenewCheckInterval: 10 * time.Minute,
				Dir: filepath.Join(dir, "state", "acme"), DNS: &tlsfront.DNSSolver{Exec: []string{filepath.Join(dir, "bin/hook"), "arg"}},
			},
		},
	} {
		cfg := loadText(t, dir, "state_dir = \"state\"\ntls {\n  acme {\n"+test.text+"\n  }\n}\n"+acmeCluster)
		if !reflect.DeepEqual(*cfg.ACME, test.want) {
			t.Errorf("%s: (-want +got)\n%s", test.name, cmp.Diff(test.want, *cfg.ACME))
		}
		var out bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
			fmt.Fprintf(&out, verb, *cfg)
			fmt.Fprintf(&out, verb, *cfg.ACME)
			if cfg.ACME.EAB != nil {
				fmt.Fprintf(&out, verb, *cfg.ACME.EAB)
			}
			if cfg.ACME.DNS != nil && cfg.ACME.DNS.Key != nil {
				fmt.Fprintf(&out, verb, *cfg.ACME.DNS.Key)
			}
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "eab", cfg.ACME.EAB, "dns", cfg.ACME.DNS)
		if err := json.NewEncoder(&out).Encode(cfg.ACME); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); strings.Contains(got, inlinePassword) || strings.Contains(got, fmt.Sprintf("%x", inlinePassword)) {
			t.Errorf("%s: shows the secret: %s", test.name, got)
		}
	}
	cfg := loadText(t, dir, "tls {\n  acme {\n    domains = [\"a.example.com\"]\n    root_file = \"root.crt\"\n  }\n}\n"+acmeCluster)
	if cfg.ACME.Roots == nil {
		t.Error("no roots of the file")
	}
}

// Secrets of the acme block stay unread where they are not needed.
func TestACMEWithoutSecrets(t *testing.T) {
	setConfigEnvironment(t)
	path := filepath.Join(t.TempDir(), "test.hcl")
	err := os.WriteFile(path, []byte(`tls {
  acme {
    domains   = ["db.example.com"]
    root_file = "missing.crt"
    challenge = "dns-01"
    eab {
      key_id  = "kid-1"
      mac_key = file("missing.key")
    }
    dns {
      server     = "ns1.example.com"
      key_name   = "acme-update"
      key_secret = env("TEST_UNSET_VARIABLE")
    }
  }
}`+acmeCluster), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, _ := loadConfig(path); cfg != nil {
		t.Error("loadConfig did without the secrets")
	}
	if cfg, diags := loadConfigWithoutSecrets(path); cfg == nil {
		t.Errorf("%v", diags.list)
	}
}
