package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/discovery"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	samplePath = "../../pgreplicaproxy.hcl"
	// inlinePassword stands in files whose diagnostics must not show it.
	inlinePassword = "hunter2"
)

// setConfigEnvironment makes the environment the same wherever the tests run.
func setConfigEnvironment(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", "/home/test")
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("STATE_DIRECTORY", "")
	t.Setenv("TEST_MONITOR_PASSWORD", "monitor's secret")
	t.Setenv("PGREPLICAPROXY_MONITOR_PASSWORD", "monitor's secret")
}

// outcome is what a command line does, for a golden file.
func outcome(args ...string) string {
	var stdout, stderr bytes.Buffer
	code := run(args, strings.NewReader(""), &stdout, &stderr)
	return fmt.Sprintf("%s%sexit code %d\n", &stdout, &stderr, code)
}

// compareGolden compares with a golden file, or writes it.
func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, diff)
	}
}

// loadText loads a configuration from a file of its own, which must be valid.
func loadText(t *testing.T, dir, text string) *config {
	t.Helper()
	path := filepath.Join(dir, "test.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, diags := loadConfig(path)
	if cfg == nil {
		t.Fatalf("%v", diags.list)
	}
	return cfg
}

// TestCheckGolden holds what check says of every file in testdata/config, the order included.
func TestCheckGolden(t *testing.T) {
	setConfigEnvironment(t)
	files, err := filepath.Glob("testdata/config/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".hcl")
		t.Run(filepath.Base(name), func(t *testing.T) {
			got := outcome("check", "--config", file)
			compareGolden(t, name+".golden", got)
			if strings.Contains(got, inlinePassword) {
				t.Errorf("shows the password:\n%s", got)
			}
			if again := outcome("check", "--config", file); again != got {
				t.Errorf("differs the second time:\n%s", cmp.Diff(got, again))
			}
		})
	}
}

func TestCheckMissingFile(t *testing.T) {
	got := outcome("check", "--config", "testdata/config/no-such-file.hcl")
	for _, want := range []string{"Configuration cannot be read", "no such file", "--config", "exit code 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}

// TestEveryKeyIsConverted compares a file that sets everything with the values it stands for.
func TestEveryKeyIsConverted(t *testing.T) {
	setConfigEnvironment(t)
	got, diags := loadConfig("testdata/config/everything.hcl")
	if got == nil {
		t.Fatalf("%v", diags.list)
	}
	verified := func(name, address string, weight int) backends.Target {
		return backends.Target{
			Cluster: "main", Name: name, Network: "tcp", Address: address,
			TLS: backends.TLSVerifyFull, ServerName: "db.example.com", Weight: weight,
		}
	}
	limited := func(t backends.Target) backends.Target {
		t.MaxSessions = 11
		return t
	}
	announced := func(t backends.Target) backends.Target {
		t.SendProxyProtocol = true
		return t
	}
	inZone := func(t backends.Target) backends.Target {
		t.Zone = "a"
		return t
	}
	ordinary := func(name string, found discovery.Config, targets ...backends.Target) proxy.ClusterConfig {
		return proxy.ClusterConfig{
			Monitor: backends.MonitorConfig{
				Cluster:     name,
				Targets:     targets,
				Credentials: backends.Credentials{User: "pgreplicaproxy", Password: "secret of the file", Database: "postgres"},
				Interval:    time.Second,
				Timeout:     time.Second,
				MaxLag:      backends.LagLimit{Bytes: 16 << 20},
			},
			Discovery: found,
			Allow:     proxy.MethodSCRAM,
			Placement: proxy.Placement{
				HoldPrimary: 10 * time.Second, HoldReplica: 2 * time.Second, MaxWaiting: 1000, MaxDials: 32, SlowStart: 30 * time.Second,
			},
			Transitions: proxy.Transitions{Promoted: proxy.HandleDrain, Lagging: proxy.HandleLeave},
		}
	}
	want := &config{
		User:         "nobody",
		StateDir:     "testdata/config/state",
		DrainTimeout: time.Minute,
		LoginTimeout: 500 * time.Millisecond,
		Listeners: []listenerConfig{
			{Network: "tcp", Address: "0.0.0.0:7432", ProxyProtocolFrom: tlsfront.Peers{Networks: []netip.Prefix{
				netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::1/128"),
			}}},
			{Network: "tcp", Address: "[::1]:7432", TLSOptional: true},
			{Network: "tcp", Address: "127.0.0.1:7433", TLSOptional: true},
			{Network: "unix", Address: "/run/pgreplicaproxy/.s.PGSQL.7432", TLSOptional: true},
		},
		Names:      []string{"db.example.com", "*.db.example.com", "192.0.2.1", "2001:db8::1"},
		MinVersion: tls.VersionTLS13,
		Clusters: []proxy.ClusterConfig{
			{
				Monitor: backends.MonitorConfig{
					Cluster: "main",
					Targets: []backends.Target{
						limited(inZone(verified("db1", "db1.example.com:5432", 3))),
						announced(verified("db2", "[2001:db8::2]:5433", 1)),
						verified("db3", "[2001:db8::3]:5432", 1),
						{Cluster: "main", Name: "db4", Network: "unix", Address: "/var/run/postgresql/.s.PGSQL.5433", Weight: 1},
					},
					Credentials: backends.Credentials{User: "watcher", Password: "fallback", Database: "watched"},
					Interval:    2 * time.Second,
					Timeout:     1500 * time.Millisecond,

					SystemIdentifier: "7345678901234567890",

					MaxLag: backends.LagLimit{Time: 90 * time.Second}, AllowDelayed: true, OnConflict: backends.ConflictKeep,
					MinStandbysForWrite: 1, AllowSameTimelineTakeover: true,
				},
				Allow:            proxy.MethodSCRAM | proxy.MethodMD5 | proxy.MethodPassword | proxy.MethodOAuth | proxy.MethodGSS,
				AllowMonitorUser: true,
				NameClients:      true,
				BroadcastCancels: true,
				Placement: proxy.Placement{
					HoldReplica: 3 * time.Second, MaxWaiting: 5, MaxDials: 6, SlowStart: 7 * time.Second,
					MaxSessionAge: 8 * time.Hour, Rebalance: true,
				},
				Transitions: proxy.Transitions{
					Demoted: proxy.HandleDrain, Promoted: proxy.HandleLeave, Lagging: proxy.HandleClose,
				},
			},
			ordinary("other", discovery.Config{},
				backends.Target{Cluster: "other", Name: "db1", Network: "tcp", Address: "10.0.0.21:5432", Weight: 1}),
			ordinary("found", discovery.Config{
				Cluster: "found",
				Patroni: &discovery.Patroni{
					URLs: []string{"http://10.0.0.11:8008", "http://10.0.0.12:8008/"}, Interval: 3 * time.Second,
					Target: backends.Target{Cluster: "found", Name: "patroni", Network: "tcp", Weight: 1},
				},
			}),
			ordinary("named", discovery.Config{
				Cluster: "named",
				Names: []discovery.Name{{
					Target:   backends.Target{Cluster: "named", Name: "pool", Network: "tcp", Address: "db.internal:5432", Weight: 2},
					Interval: 20 * time.Second, Server: "10.0.0.53:53",
				}},
				Patroni: &discovery.Patroni{URLs: []string{"http://10.0.0.11:8008"}, Interval: 2 * time.Second, LeaderOnly: true},
			}, backends.Target{Cluster: "named", Name: "db1", Network: "tcp", Address: "db1.internal:5432", Weight: 1}),
		},
		Routes: policy.Rules{Zone: "a", Routes: []policy.Route{
			{
				DatabasePattern: "app_*", User: "reporting", ServerName: "ro.example.com",
				Cluster: "main", Target: policy.TargetReplica, Fallback: policy.FallbackNoReplica,
			},
			{Cluster: "main", Replication: true},
			{DatabaseSuffix: "_any", Cluster: "other", Target: policy.TargetAny},
			{Cluster: "other"},
		}, Access: []policy.Access{
			{
				Unix: true,
				From: []netip.Prefix{
					netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
				},
				TLS: policy.Without, Certificate: policy.With, User: "app", Database: "app", Reason: "because",
			},
			{Allow: true, UserPattern: "a*", DatabasePattern: "b?"},
		}},
		Limits: admission.Limits{
			Connections: 100, PerAddress: 1, PerPrefix: 2, PerUser: 3, PerDatabase: 4,
			Logins: 5, LoginsPerPrefix: 6, Handshakes: 7, HandshakesPerSecond: 8, PrefixIPv4: 32, PrefixIPv6: 48,
			Reserved: admission.Reserved{
				Places: 9, Users: []string{"postgres"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")},
			},
			Throttle: admission.Throttle{Failures: 10, Delay: time.Second, MaxDelay: time.Minute},
		},
		Admin: adminConfig{
			Listen: listenerConfig{Network: "tcp", Address: "0.0.0.0:7434", Private: true}, Token: "secret of the file", Pprof: true,
		},
		LogLevel:  slog.LevelDebug,
		LogFormat: "json",
	}
	if !reflect.DeepEqual(got, want) { // Diff shows Credentials without the password
		t.Errorf("(-want +got)\n%s", cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })))
	}
}

// TestSampleIsTheDefaults holds the sample file equal to one that leaves out everything with a default.
func TestSampleIsTheDefaults(t *testing.T) {
	setConfigEnvironment(t)
	got, diags := loadConfig(samplePath)
	if len(diags.list) > 0 {
		t.Fatalf("the sample is not clean: %v", diags.list)
	}
	want := loadText(t, t.TempDir(), `
cluster "main" {
  monitor { password = env("PGREPLICAPROXY_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11" }
  backend "db2" { address = "10.0.0.12" }
}`)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("(-defaults +sample)\n%s", cmp.Diff(want, got))
	}
}

// TestSampleNamesEveryKey finds each argument and block of the schema in the sample, at least in a comment, with
// the value of the default where a comment shows it.
func TestSampleNamesEveryKey(t *testing.T) {
	sample, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	keys := schemaKeys(reflect.TypeFor[rawConfig]())
	if len(keys) < 30 {
		t.Fatalf("found %d keys only: %v", len(keys), keys)
	}
	for key, block := range keys {
		form := `(?m)^[ #]*(\w+ \{ )?` + key + ` +=`
		if block {
			form = `(?m)^[ #]*` + key + `( "\w+")? \{`
		}
		if !regexp.MustCompile(form).Match(sample) {
			t.Errorf("the sample does not explain %s", key)
		}
	}
}

// schemaKeys returns the names of all arguments and blocks, with true for blocks.
func schemaKeys(raw reflect.Type) map[string]bool {
	keys := map[string]bool{}
	for i := range raw.NumField() {
		field := raw.Field(i)
		name, kind, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		switch kind {
		case "optional":
			keys[name] = false
		case "block":
			keys[name] = true
			inner := field.Type
			for inner.Kind() != reflect.Struct {
				inner = inner.Elem()
			}
			for k, block := range schemaKeys(inner) {
				keys[k] = block
			}
		}
	}
	return keys
}

func TestSampleIsFormatted(t *testing.T) {
	if got, want := outcome("fmt", "--check", samplePath), "exit code 0\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfigDoesNotPrintSecrets prints a configuration in every way there is.
func TestConfigDoesNotPrintSecrets(t *testing.T) {
	setConfigEnvironment(t)
	cfg := loadText(t, t.TempDir(), `cluster "main" {
  monitor { password = "`+inlinePassword+`" }
  backend "db1" { address = "10.0.0.11" }
}
admin { token = "`+inlinePassword+inlinePassword+inlinePassword+`" }`)
	if got := string(cfg.Admin.Token); !strings.HasPrefix(got, inlinePassword) {
		t.Fatalf("got token %q", got)
	}
	if got := cfg.Clusters[0].Monitor.Credentials.Password; got != inlinePassword {
		t.Fatalf("got password %q, want %q", got, inlinePassword)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		fmt.Fprintf(&out, verb, *cfg)
		fmt.Fprintf(&out, verb, cfg.Clusters)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "config", *cfg, "clusters", cfg.Clusters)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "clusters", cfg.Clusters)
	if err := json.NewEncoder(&out).Encode(cfg); err != nil {
		t.Fatal(err)
	}
	hex := fmt.Sprintf("%x", inlinePassword)
	if got := out.String(); strings.Contains(got, inlinePassword) || strings.Contains(got, hex) {
		t.Errorf("shows the password: %s", got)
	}
}

// TestWithoutSecrets loads a file whose secrets are out of reach.
func TestWithoutSecrets(t *testing.T) {
	setConfigEnvironment(t)
	path := filepath.Join(t.TempDir(), "test.hcl")
	err := os.WriteFile(path, []byte(`
tls {
  certificate {
    cert_file = "missing.crt"
    key_file  = "missing.key"
  }
}
cluster "main" {
  monitor { password = env("TEST_UNSET_VARIABLE") }
  backend "db1" { address = "10.0.0.11" }
}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if cfg, _ := loadConfig(path); cfg != nil {
		t.Errorf("loadConfig did without the secrets")
	}
	cfg, diags := loadConfigWithoutSecrets(path)
	if cfg == nil {
		t.Fatalf("%v", diags.list)
	}
	if got, want := cfg.Clusters[0].Monitor.Credentials, (backends.Credentials{User: "pgreplicaproxy", Database: "postgres"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
