package policy_test

import (
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

// everyRole, everyTarget and everyFallback are all there are; the loops over mixes are built on them.
var (
	everyRole     = []policy.Role{policy.Unknown, policy.Primary, policy.Replica}
	everyTarget   = []policy.Target{policy.TargetPrimary, policy.TargetReplica, policy.TargetAny}
	everyFallback = []policy.Fallback{policy.FallbackNever, policy.FallbackNoReplica, policy.FallbackLagging}
)

// A value that nobody set must be the harmless one.
func TestZeroValues(t *testing.T) {
	var (
		role     policy.Role
		target   policy.Target
		fallback policy.Fallback
		verdict  policy.Verdict
	)
	if role != policy.Unknown {
		t.Errorf("zero Role is %v", role)
	}
	if target != policy.TargetPrimary {
		t.Errorf("zero Target is %v", target)
	}
	if fallback != policy.FallbackNever {
		t.Errorf("zero Fallback is %v", fallback)
	}
	if verdict != policy.Refuse {
		t.Errorf("zero Verdict is %v", verdict)
	}
}

func TestStrings(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{policy.Unknown.String(), "unknown"},
		{policy.Primary.String(), "primary"},
		{policy.Replica.String(), "replica"},
		{policy.Role(3).String(), "Role(3)"},
		{policy.TargetPrimary.String(), "primary"},
		{policy.TargetReplica.String(), "replica"},
		{policy.TargetAny.String(), "any"},
		{policy.Target(3).String(), "Target(3)"},
		{policy.FallbackNever.String(), "never"},
		{policy.FallbackNoReplica.String(), "no_replica"},
		{policy.FallbackLagging.String(), "lagging"},
		{policy.Fallback(3).String(), "Fallback(3)"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for _, want := range everyTarget {
		if got, err := policy.ParseTarget(want.String()); err != nil || got != want {
			t.Errorf("ParseTarget(%q) = %v, %v", want, got, err)
		}
	}
	for _, word := range []string{"", "Primary", "standby", " any", "unknown", "Target(1)"} {
		got, err := policy.ParseTarget(word)
		if err == nil {
			t.Errorf("ParseTarget(%q) = %v", word, got)
			continue
		}
		wantNamed(t, err.Error(), `"`+word+`"`, `"primary"`, `"replica"`, `"any"`)
	}
}

func TestParseFallback(t *testing.T) {
	for _, want := range everyFallback {
		if got, err := policy.ParseFallback(want.String()); err != nil || got != want {
			t.Errorf("ParseFallback(%q) = %v, %v", want, got, err)
		}
	}
	for _, word := range []string{"", "Never", "no-replica", "always", "primary"} {
		got, err := policy.ParseFallback(word)
		if err == nil {
			t.Errorf("ParseFallback(%q) = %v", word, got)
			continue
		}
		wantNamed(t, err.Error(), `"`+word+`"`, `"never"`, `"no_replica"`, `"lagging"`)
	}
}

func TestTargetServes(t *testing.T) {
	type question struct {
		target   policy.Target
		role     policy.Role
		fallback policy.Fallback
	}
	yes := map[question]bool{
		{policy.TargetPrimary, policy.Primary, policy.FallbackNever}:     true,
		{policy.TargetPrimary, policy.Primary, policy.FallbackNoReplica}: true,
		{policy.TargetPrimary, policy.Primary, policy.FallbackLagging}:   true,
		{policy.TargetReplica, policy.Replica, policy.FallbackNever}:     true,
		{policy.TargetReplica, policy.Replica, policy.FallbackNoReplica}: true,
		{policy.TargetReplica, policy.Replica, policy.FallbackLagging}:   true,
		{policy.TargetReplica, policy.Primary, policy.FallbackNoReplica}: true,
		{policy.TargetReplica, policy.Primary, policy.FallbackLagging}:   true,
		{policy.TargetAny, policy.Primary, policy.FallbackNever}:         true,
		{policy.TargetAny, policy.Primary, policy.FallbackNoReplica}:     true,
		{policy.TargetAny, policy.Primary, policy.FallbackLagging}:       true,
		{policy.TargetAny, policy.Replica, policy.FallbackNever}:         true,
		{policy.TargetAny, policy.Replica, policy.FallbackNoReplica}:     true,
		{policy.TargetAny, policy.Replica, policy.FallbackLagging}:       true,
	}
	for _, target := range everyTarget {
		for _, fallback := range everyFallback {
			for _, role := range append(everyRole, policy.Role(3)) {
				want := yes[question{target, role, fallback}]
				if got := target.Serves(role, fallback); got != want {
					t.Errorf("%v.Serves(%v, %v) = %v, want %v", target, role, fallback, got, want)
				}
			}
		}
	}
}

// wantNamed checks that a sentence for people names each of words.
func wantNamed(t *testing.T, sentence string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(sentence, word) {
			t.Errorf("%q does not name %s", sentence, word)
		}
	}
}
