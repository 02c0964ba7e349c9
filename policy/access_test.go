package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

// TestAccessCriteria tries one rule at a time, which allows, on some requests.
func TestAccessCriteria(t *testing.T) {
	type request = policy.Request
	from := func(s string) request { return request{User: "u", Database: "d", Address: netip.MustParseAddr(s)} }
	for _, test := range []struct {
		name  string
		rule  policy.Access
		taken []request
		not   []request
	}{
		{"everything", policy.Access{}, []request{{}, from("192.0.2.1"), from("::1")}, nil},
		{
			"networks",
			policy.Access{From: prefixes("10.0.0.0/8", "2001:db8::/32")},
			[]request{from("10.1.2.3"), from("::ffff:10.1.2.3"), from("2001:db8::1"), from("2001:db8::1%eth0")},
			[]request{from("11.0.0.1"), from("2001:db9::1"), {}},
		},
		{"unix", policy.Access{Unix: true}, []request{{}}, []request{from("127.0.0.1"), from("::1")}},
		{"unix and a network", policy.Access{Unix: true, From: prefixes("127.0.0.0/8")}, []request{{}, from("127.0.0.1")}, []request{from("::1")}},
		{"TLS", policy.Access{TLS: policy.With}, []request{{TLS: true}}, []request{{}}},
		{"no TLS", policy.Access{TLS: policy.Without}, []request{{}}, []request{{TLS: true}}},
		{"certificate", policy.Access{Certificate: policy.With}, []request{{TLS: true, Certificate: true}}, []request{{TLS: true}}},
		{"user", policy.Access{User: "app"}, []request{{User: "app"}}, []request{{User: "App"}, {User: "app "}, {User: "ap"}}},
		{"user pattern", policy.Access{UserPattern: "app_*"}, []request{{User: "app_1"}}, []request{{User: "app"}}},
		{"database", policy.Access{Database: "app"}, []request{{Database: "app"}, {Database: "app_replica"}}, []request{{Database: "apps"}}},
		{"database pattern", policy.Access{DatabasePattern: "a*"}, []request{{Database: "app_replica"}}, []request{{Database: "b"}}},
		{
			"names as long as servers know",
			policy.Access{User: strings.Repeat("u", 63), Database: strings.Repeat("d", 64)},
			[]request{{User: strings.Repeat("u", 70), Database: strings.Repeat("d", 63)}},
			[]request{{User: strings.Repeat("u", 62), Database: strings.Repeat("d", 63)}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.rule.Allow = true
			rules := policy.Rules{Routes: policy.DefaultRoutes("main"), Access: []policy.Access{test.rule}}
			for _, q := range test.taken {
				if got := rules.Enter(q); !got.Allowed || got.Rule != 0 {
					t.Errorf("%+v: got %+v, want it taken", q, got)
				}
			}
			for _, q := range test.not {
				if got := rules.Enter(q); got.Allowed || got.Rule != -1 {
					t.Errorf("%+v: got %+v, want no rule for it", q, got)
				}
			}
		})
	}
}

func TestAccessOrder(t *testing.T) {
	rules := policy.Rules{Access: []policy.Access{
		{User: "mallory", Reason: "left the company"},
		{Allow: true, From: prefixes("10.0.0.0/8")},
		{User: "app"},
		{Allow: true, TLS: policy.With},
	}}
	ten, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct {
		request policy.Request
		want    policy.Entry
	}{
		{
			policy.Request{User: "mallory", Database: "d", Address: ten, TLS: true},
			policy.Entry{Rule: 0, Reason: `an access rule refuses host "10.0.0.1", user "mallory", database "d", TLS: left the company`},
		},
		{policy.Request{User: "app", Address: ten}, policy.Entry{Allowed: true, Rule: 1}},
		{
			policy.Request{User: "app", Database: "d", Address: other, TLS: true},
			policy.Entry{Rule: 2, Reason: `an access rule refuses host "192.0.2.1", user "app", database "d", TLS`},
		},
		{policy.Request{User: "bob", Address: other, TLS: true}, policy.Entry{Allowed: true, Rule: 3}},
		{
			policy.Request{User: "bob", Database: "d"},
			policy.Entry{Rule: -1, Reason: `no access rule for host "[local]", user "bob", database "d", no encryption`},
		},
	} {
		if got := rules.Enter(test.request); got != test.want {
			t.Errorf("%+v:\n got %+v\nwant %+v", test.request, got, test.want)
		}
	}
	if got := (policy.Rules{}).Enter(policy.Request{}); !got.Allowed || got.Rule != -1 {
		t.Errorf("no rules: got %+v, want everybody let in", got)
	}
}

// TestAccessThroughSuffix refuses a database under whatever name a route gives it.
func TestAccessThroughSuffix(t *testing.T) {
	rules := policy.Rules{Routes: policy.DefaultRoutes("main"), Access: []policy.Access{{Database: "secret"}, {Allow: true}}}
	for name, allowed := range map[string]bool{"secret": false, "secret_replica": false, "secret_replica_replica": true, "secrets": true} {
		if got := rules.Enter(policy.Request{User: "u", Database: name}); got.Allowed != allowed {
			t.Errorf("%s: got %+v, want allowed %v", name, got, allowed)
		}
	}
}

func TestAccessString(t *testing.T) {
	rule := policy.Access{
		From: prefixes("10.0.0.0/8"), Unix: true, TLS: policy.With, Certificate: policy.Without,
		UserPattern: "a*", Database: "d", Reason: "no",
	}
	want := `action = "refuse", from = ["unix", "10.0.0.0/8"], tls = "required", client_certificate = "none", ` +
		`user_pattern = "a*", database = "d", reason = "no"`
	if got := rule.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
