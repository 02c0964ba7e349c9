package proxy

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

var handlings = []Handling{HandleClose, HandleDrain, HandleLeave}

// everyTransitions yields all there are.
func everyTransitions(yield func(Transitions) bool) {
	for _, demoted := range handlings {
		for _, promoted := range handlings {
			for _, lagging := range handlings {
				if !yield(Transitions{demoted, promoted, lagging}) {
					return
				}
			}
		}
	}
}

// TestFate tries every status with every claim, target, fallback and handling against the rules in words.
func TestFate(t *testing.T) {
	claims := []policy.Role{policy.Unknown, policy.Primary, policy.Replica}
	targets := []policy.Target{policy.TargetPrimary, policy.TargetReplica, policy.TargetAny}
	for status := backends.Unknown; status <= backends.Foreign; status++ {
		for _, claim := range claims {
			for _, target := range targets {
				for _, fallback := range []policy.Fallback{policy.FallbackNever, policy.FallbackNoReplica} {
					for transitions := range everyTransitions {
						for _, lagging := range []bool{false, true} {
							st := backends.State{Status: status, Claim: claim}
							got := fateOf(st, lagging, target, fallback, transitions)
							if want := wantFate(st, lagging, target, fallback, transitions); got != want {
								t.Errorf("%v, claims %v, lagging %t, session for %v, fallback %v, %+v: got %v, want %v",
									status, claim, lagging, target, fallback, transitions, got, want)
							}
						}
					}
				}
			}
		}
	}
}

func wantFate(st backends.State, lagging bool, target policy.Target, fallback policy.Fallback, transitions Transitions) fate {
	words := map[Handling]fate{HandleClose: end, HandleDrain: drain, HandleLeave: stay}
	switch st.Status {
	case backends.Down, backends.Silent, backends.Conflict, backends.Quarantined, backends.Deserted, backends.Foreign:
		return end
	case backends.Starting:
		if target == policy.TargetReplica {
			return stay
		}
		return end
	}
	switch st.Claim {
	case policy.Primary:
		if target == policy.TargetReplica && fallback == policy.FallbackNever {
			return words[transitions.Promoted]
		}
	case policy.Replica:
		if target == policy.TargetPrimary {
			return words[transitions.Demoted]
		}
		if lagging {
			return words[transitions.Lagging]
		}
	}
	return stay
}

// TestWriteSessionsEnd is the promise behind the fence: whatever is known for certain against a primary ends its sessions. The
// operator has a say only in what becomes of them where nobody can write: on a server that is a replica now.
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
		for transitions := range everyTransitions {
			if st.Claim == policy.Replica && transitions.Demoted != HandleClose {
				continue
			}
			if got := fateOf(st, false, policy.TargetPrimary, policy.FallbackNever, transitions); got != end {
				t.Errorf("%v, claims %v, %+v: got %v, want end", st.Status, st.Claim, transitions, got)
			}
		}
	}
}

func TestParseHandling(t *testing.T) {
	for _, want := range handlings {
		if got, err := ParseHandling(want.String()); err != nil || got != want {
			t.Errorf("ParseHandling(%q) = %v, %v", want, got, err)
		}
	}
	for _, word := range []string{"", "Close", "kill", "Handling(1)"} {
		if got, err := ParseHandling(word); err == nil {
			t.Errorf("ParseHandling(%q) = %v", word, got)
		}
	}
}

// Only what can end a session makes all of them be looked at again.
func TestSameRoles(t *testing.T) {
	snapshot := func(change func(*backends.State)) *backends.Snapshot {
		st := backends.State{Target: backends.Target{Name: "db1"}, Role: policy.Replica, Claim: policy.Replica, Status: backends.Up}
		change(&st)
		return &backends.Snapshot{States: []backends.State{st}}
	}
	base := snapshot(func(*backends.State) {})
	if sameRoles(nil, base) || sameRoles(&backends.Snapshot{}, base) {
		t.Error("nothing is the same as something")
	}
	for name, c := range map[string]struct {
		change func(*backends.State)
		same   bool
	}{
		"position": {func(st *backends.State) { st.Replayed, st.LagBytes = 7, 8 }, true},
		"role":     {func(st *backends.State) { st.Role = policy.Unknown }, false},
		"claim":    {func(st *backends.State) { st.Claim = policy.Primary }, false},
		"status":   {func(st *backends.State) { st.Status = backends.Starting }, false},
		"lagging":  {func(st *backends.State) { st.Lagging = true }, false},
		"address":  {func(st *backends.State) { st.Target.Address = "elsewhere" }, false},
	} {
		if got := sameRoles(base, snapshot(c.change)); got != c.same {
			t.Errorf("%s: same is %t", name, got)
		}
	}
}

// A session on a promoted replica is told what its server has become, not what the new primary still waits for.
func TestFencedByAPromotion(t *testing.T) {
	st := backends.State{
		Target: backends.Target{Name: "db2"}, Status: backends.Pending, Claim: policy.Primary, Detail: "waits until no session is left on db1",
	}
	if got := errFenced(st, false, policy.TargetReplica).Detail; got != "It is primary now." {
		t.Errorf("the detail is %q", got)
	}
}
