package backends

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

// observed makes an observation. A server without an identity has never answered.
func observed(name string, status Status, claim policy.Role, identity string) observation {
	return observation{
		target: Target{Cluster: "main", Name: name, Weight: 1}, status: status, claim: claim,
		reading: reading{role: claim, systemIdentifier: identity},
	}
}

// kinds are all the observations of one server that can differ for judge.
func kinds(name string) []observation {
	list := []observation{observed(name, Unknown, policy.Unknown, "")}
	for _, identity := range []string{"A", "B"} {
		for _, role := range []policy.Role{policy.Primary, policy.Replica} {
			for _, status := range []Status{Up, NoLogin, Misconfigured} {
				list = append(list, observed(name, status, role, identity))
			}
		}
		list = append(list, observed(name, Down, policy.Unknown, identity))
	}
	return list
}

// Everything that three servers can say, with and without a settled identity.
func TestJudgeEveryCombination(t *testing.T) {
	for _, identity := range []string{"", "A"} {
		for _, a := range kinds("db1") {
			for _, b := range kinds("db2") {
				for _, c := range kinds("db3") {
					checkJudged(t, identity, []observation{a, b, c})
				}
			}
		}
	}
}

// checkJudged checks what must hold whatever was observed.
func checkJudged(t *testing.T, identity string, observations []observation) {
	t.Helper()
	before := slices.Clone(observations)
	states, settled := judge(identity, observations)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("identity %q, %+v: %s\n%+v", identity, observations, fmt.Sprintf(format, args...), states)
	}
	if !slices.Equal(before, observations) {
		fail("judge changed its argument")
	}
	if identity != "" && settled != identity {
		fail("identity became %q", settled)
	}
	primaries, claimants := 0, 0
	for i, o := range observations {
		if o.claim == policy.Primary && o.reading.systemIdentifier == settled {
			claimants++
		}
		if states[i].Role == policy.Primary {
			primaries++
		}
	}
	if primaries > 1 || claimants > 1 && primaries > 0 {
		fail("%d primaries of %d", primaries, claimants)
	}
	for i, o := range observations {
		st := states[i]
		if st.Target != o.target || st.Claim != o.claim || st.SystemIdentifier != o.reading.systemIdentifier {
			fail("state %d is not of its server", i)
		}
		wantRole, wantStatus := o.claim, o.status
		if o.status == NoLogin {
			wantRole = policy.Unknown
		}
		switch {
		case o.claim == policy.Unknown:
		case o.reading.systemIdentifier != settled:
			wantRole, wantStatus = policy.Unknown, Foreign
		case o.claim == policy.Primary && claimants > 1:
			wantRole, wantStatus = policy.Unknown, Conflict
		}
		if st.Role != wantRole || st.Status != wantStatus {
			fail("%s is %s, %s, want %s, %s", o.target.Name, st.Role, st.Status, wantRole, wantStatus)
		}
	}
	reversed := slices.Clone(observations)
	slices.Reverse(reversed)
	again, settledAgain := judge(identity, reversed)
	slices.Reverse(again)
	for i := range states {
		if again[i].Role != states[i].Role || again[i].Status != states[i].Status || settled != settledAgain {
			fail("the order of the servers matters")
		}
	}
}

func TestJudgeConflictNamesTheOthers(t *testing.T) {
	states, _ := judge("A", []observation{
		observed("db1", Up, policy.Primary, "A"),
		observed("db2", NoLogin, policy.Primary, "A"),
		observed("db3", Up, policy.Replica, "A"),
		observed("db4", Up, policy.Primary, "A"),
		observed("db5", Up, policy.Primary, "B"),
	})
	var got []string
	for _, st := range states {
		got = append(got, fmt.Sprintf("%s %s %s", st.Role, st.Status, st.Detail))
	}
	want := []string{
		"unknown conflict claims to be primary beside db2 and db4",
		"unknown conflict claims to be primary beside db1 and db4",
		"replica up ",
		"unknown conflict claims to be primary beside db1 and db2",
		"unknown foreign belongs to another cluster",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMajority(t *testing.T) {
	for identities, want := range map[string]string{
		"": "", "A": "A", "AA": "A", "AB": "", "AAB": "A", "ABC": "", "AABB": "", "AAABB": "A", "A??": "A", "A?B": "",
	} {
		var observations []observation
		for _, id := range strings.Split(identities, "") {
			observations = append(observations, observed("db", Down, policy.Unknown, strings.Trim(id, "?")))
		}
		if got := majority(observations); got != want {
			t.Errorf("majority of %q is %q, want %q", identities, got, want)
		}
	}
}
