package proxy

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// TestFate tries every status with every claim, target and fallback against the rules in words.
func TestFate(t *testing.T) {
	claims := []policy.Role{policy.Unknown, policy.Primary, policy.Replica}
	targets := []policy.Target{policy.TargetPrimary, policy.TargetReplica, policy.TargetAny}
	for status := backends.Unknown; status <= backends.Foreign; status++ {
		for _, claim := range claims {
			for _, target := range targets {
				for _, fallback := range []policy.Fallback{policy.FallbackNever, policy.FallbackNoReplica} {
					st := backends.State{Status: status, Claim: claim}
					got := fateOf(st, target, fallback)
					if want := wantFate(status, claim, target, fallback); got != want {
						t.Errorf("%v, claims %v, session for %v, fallback %v: got %v, want %v", status, claim, target, fallback, got, want)
					}
				}
			}
		}
	}
}

func wantFate(status backends.Status, claim policy.Role, target policy.Target, fallback policy.Fallback) fate {
	switch status {
	case backends.Down, backends.Silent, backends.Conflict, backends.Foreign:
		return end
	case backends.Starting:
		if target == policy.TargetReplica {
			return stay
		}
		return end
	}
	switch claim {
	case policy.Primary:
		if target == policy.TargetReplica && fallback == policy.FallbackNever {
			return drain
		}
	case policy.Replica:
		if target == policy.TargetPrimary {
			return end
		}
	}
	return stay
}

// TestWriteSessionsEnd is the promise behind the fence: whatever is known for certain against a primary ends its sessions.
func TestWriteSessionsEnd(t *testing.T) {
	for _, st := range []backends.State{
		{Status: backends.Up, Claim: policy.Replica},
		{Status: backends.NoLogin, Claim: policy.Replica},
		{Status: backends.Conflict, Claim: policy.Primary},
		{Status: backends.Foreign, Claim: policy.Primary},
		{Status: backends.Down},
		{Status: backends.Silent},
		{Status: backends.Starting},
	} {
		if got := fateOf(st, policy.TargetPrimary, policy.FallbackNever); got != end {
			t.Errorf("%v, claims %v: got %v, want end", st.Status, st.Claim, got)
		}
	}
}
