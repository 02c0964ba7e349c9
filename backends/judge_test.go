package backends

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/policy"
)

// A server in the words of these tests: name, status, role, timeline, and what else is known of it.
type saw struct {
	name     string
	status   Status
	claim    policy.Role
	timeline uint32
	upstream string // the name of the server that it streams from
	senders  int
	identity string // "A" if it is left out; "?" was never told
	written  uint64
}

func (s saw) observation() observation {
	o := observation{
		target: Target{Cluster: "main", Name: s.name, Network: "tcp", Address: s.name + ":5432", Weight: 1},
		status: s.status, claim: s.claim,
		reading: reading{
			role: s.claim, systemIdentifier: s.identity, timeline: s.timeline, senders: s.senders, written: s.written,
		},
	}
	switch s.identity {
	case "":
		o.reading.systemIdentifier = "A"
	case "?":
		o.reading.systemIdentifier = ""
	}
	if s.upstream != "" {
		o.reading.receiving, o.reading.receiver, o.reading.upstream = true, "streaming", s.upstream+":5432"
	}
	return o
}

func primaryOn(name string, timeline uint32) saw {
	return saw{name: name, status: Up, claim: policy.Primary, timeline: timeline}
}

func standbyOf(name, upstream string, timeline uint32) saw {
	return saw{name: name, status: Up, claim: policy.Replica, upstream: upstream, timeline: timeline}
}
func gone(name string, how Status) saw { return saw{name: name, status: how} }

// remembered is a cluster that has followed db1 on timeline 2, with the standbys db2 and db3.
func remembered() memory {
	return memory{
		SystemIdentifier: "A", Primary: "db1", Address: "db1:5432", Epoch: 2, Position: 1000,
		Standbys: map[string]uint32{"db2": 2, "db3": 2},
	}
}

func observe(list []saw) []observation {
	observations := make([]observation, len(list))
	for i, s := range list {
		observations[i] = s.observation()
	}
	return observations
}

// told is a verdict in words.
func told(v verdict) string {
	var words []string
	for _, st := range v.states {
		word := st.Target.Name + " " + st.Role.String()
		if st.Status != Up {
			word += " " + st.Status.String()
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// The rules, one by one, and the facts behind them.
func TestJudge(t *testing.T) {
	known := remembered()
	forked := remembered().withFork("db2", fork{Timeline: 3})
	for _, c := range []struct {
		name   string
		memory memory
		rules  rules
		saw    []saw
		want   string
		epoch  uint32 // 0: unchanged
	}{
		// R1
		{
			"R1: the first identity is pinned when all agree",
			memory{},
			rules{},
			[]saw{primaryOn("db1", 1), standbyOf("db2", "db1", 1), gone("db3", Down)},
			"db1 primary, db2 replica, db3 unknown down", 1,
		},
		{
			"R1: not while they differ",
			memory{},
			rules{},
			[]saw{primaryOn("db1", 1), standbyOf("db2", "db1", 1), {name: "db3", status: Up, claim: policy.Replica, identity: "B"}},
			"db1 unknown foreign, db2 unknown foreign, db3 unknown foreign", 0,
		},
		{
			"R1: what a server that is down was counts",
			memory{},
			rules{},
			[]saw{primaryOn("db1", 1), {name: "db2", status: Down, identity: "B"}},
			"db1 unknown foreign, db2 unknown down", 0,
		},
		{
			"R1: a stranger alone", known,
			rules{},
			[]saw{gone("db1", Down), {name: "db2", status: Up, claim: policy.Primary, timeline: 9, identity: "B"}},
			"db1 unknown down, db2 unknown foreign", 0,
		},
		{
			"R1: the operator's word, while they differ",
			memory{},
			rules{identity: "A"},
			[]saw{primaryOn("db1", 1), {name: "db2", status: Up, claim: policy.Primary, timeline: 9, identity: "B"}},
			"db1 primary, db2 unknown foreign", 1,
		},
		{
			"R1: the operator's word, before the cluster was seen",
			memory{},
			rules{identity: "A"},
			[]saw{gone("db1", Down), {name: "db2", status: Up, claim: policy.Primary, timeline: 9, identity: "B"}},
			"db1 unknown down, db2 unknown foreign", 0,
		},
		{
			"R1: the operator's word against what is remembered: the timelines of another cluster mean nothing",
			memory{SystemIdentifier: "B", Primary: "db2", Epoch: 3, Standbys: map[string]uint32{"db3": 3}},
			rules{identity: "A"},
			[]saw{primaryOn("db1", 1), {name: "db2", status: Up, claim: policy.Primary, timeline: 3, identity: "B"}},
			"db1 primary, db2 unknown foreign", 1,
		},
		// R2
		{
			"R2: a stale primary, alone (fact 1: its position is higher)",
			memory{SystemIdentifier: "A", Primary: "db2", Epoch: 3, Position: 10},
			rules{},
			[]saw{{name: "db1", status: Up, claim: policy.Primary, timeline: 2, written: 9999}, gone("db2", Down)},
			"db1 unknown quarantined, db2 unknown down", 0,
		},
		{
			"R2: beside the real one, with standbys of its own",
			memory{SystemIdentifier: "A", Primary: "db2", Epoch: 3},
			rules{onConflict: ConflictAuto},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db1", 2), standbyOf("db4", "db1", 2)},
			"db1 unknown quarantined, db2 primary, db3 replica, db4 replica", 0,
		},
		{"R2: the incumbent itself, restored to an earlier time", known, rules{}, []saw{primaryOn("db1", 1)}, "db1 unknown quarantined", 0},
		// R3
		{"R3: the incumbent after a crash (fact 5)", known, rules{}, []saw{primaryOn("db1", 2)}, "db1 primary", 0},
		{
			"R3: a clone beside it (fact 4)", known,
			rules{},
			[]saw{primaryOn("db1", 2), {name: "db4", status: Up, claim: policy.Primary, timeline: 2, written: 9999}},
			"db1 primary, db4 unknown quarantined", 0,
		},
		{
			"R3: a clone, the incumbent down", known,
			rules{},
			[]saw{gone("db1", Down), {name: "db4", status: Up, claim: policy.Primary, timeline: 2, written: 9999}},
			"db1 unknown down, db4 unknown quarantined", 0,
		},
		{
			"R3: promoted to the same number (fact 2), the incumbent alive", known,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 2)},
			"db1 primary, db2 unknown quarantined", 0,
		},
		{
			"R3: promoted to the same number, the incumbent silent", known,
			rules{},
			[]saw{gone("db1", Silent), primaryOn("db2", 2)},
			"db1 unknown silent, db2 unknown quarantined", 0,
		},
		{
			"R3: promoted to the same number, the incumbent down", known,
			rules{},
			[]saw{gone("db1", Down), primaryOn("db2", 2)},
			"db1 unknown down, db2 primary", 2,
		},
		{
			"R3: takeover of the data, where that may be", known,
			rules{takeover: true},
			[]saw{gone("db1", Down), {name: "db4", status: Up, claim: policy.Primary, timeline: 2, written: 1000}},
			"db1 unknown down, db4 primary", 2,
		},
		{
			"R3: takeover of older data", known,
			rules{takeover: true},
			[]saw{gone("db1", Down), {name: "db4", status: Up, claim: policy.Primary, timeline: 2, written: 999}},
			"db1 unknown down, db4 unknown quarantined", 0,
		},
		{
			"R3: the incumbent has another name now", known,
			rules{},
			[]saw{{name: "db1", status: Down, identity: "?"}, primaryOn("db9", 2)},
			"db1 unknown down, db9 unknown quarantined", 0,
		},
		// R4
		{
			"R4: newer timeline, the incumbent down", known,
			rules{},
			[]saw{gone("db1", Down), primaryOn("db2", 3), standbyOf("db3", "db1", 0)},
			"db1 unknown down, db2 primary, db3 replica", 3,
		},
		{"R4: the incumbent silent", known, rules{}, []saw{gone("db1", Silent), primaryOn("db2", 3)}, "db1 unknown silent, db2 primary", 3},
		{"R4: the incumbent stopping", known, rules{}, []saw{gone("db1", Starting), primaryOn("db2", 3)}, "db1 unknown starting, db2 primary", 3},
		{"R4: the incumbent in recovery", known, rules{}, []saw{standbyOf("db1", "db2", 3), primaryOn("db2", 3)}, "db1 replica, db2 primary", 3},
		{"R4: the incumbent not watched any more", known, rules{}, []saw{primaryOn("db2", 3)}, "db2 primary", 3},
		{"R4: the incumbent not asked yet", known, rules{}, []saw{gone("db1", Unknown), primaryOn("db2", 3)}, "db1 unknown unknown, db2 unknown pending", 0},
		{
			"R4: the monitor's access to the incumbent is broken for long", known,
			rules{},
			[]saw{gone("db1", Misconfigured), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 unknown misconfigured, db2 primary, db3 replica", 3,
		},
		{
			"R4: the same, but the others follow it", known,
			rules{},
			[]saw{gone("db1", Blind), primaryOn("db2", 3), standbyOf("db3", "db1", 2)},
			"db1 unknown blind, db2 unknown conflict, db3 replica", 0,
		},
		{"R4: the incumbent itself, promoted again", known, rules{}, []saw{primaryOn("db1", 4), standbyOf("db2", "db1", 4)}, "db1 primary, db2 replica", 4},
		{
			"R4: two at once", known,
			rules{},
			[]saw{gone("db1", Down), primaryOn("db2", 3), primaryOn("db3", 3)},
			"db1 unknown down, db2 unknown conflict, db3 unknown conflict", 0,
		},
		{
			"R4: a fork is no successor", forked,
			rules{},
			[]saw{gone("db1", Down), primaryOn("db2", 3), standbyOf("db3", "db1", 0)},
			"db1 unknown down, db2 unknown quarantined, db3 replica", 0,
		},
		{
			"R4: beside a fork another one is", forked,
			rules{},
			[]saw{gone("db1", Down), primaryOn("db2", 3), primaryOn("db3", 3)},
			"db1 unknown down, db2 unknown quarantined, db3 primary", 3,
		},
		{
			"R4: a fork that the standbys follow is", forked,
			rules{},
			[]saw{gone("db1", Down), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 unknown down, db2 primary, db3 replica", 3,
		},
		{"R4: a fork that was promoted again is", forked, rules{}, []saw{gone("db1", Down), primaryOn("db2", 4)}, "db1 unknown down, db2 primary", 4},
		// R5
		{
			"R5a: the standbys follow the old one (fact 3)", known,
			rules{},
			[]saw{{name: "db1", status: Up, claim: policy.Primary, timeline: 2, senders: 1}, primaryOn("db2", 3), standbyOf("db3", "db1", 2)},
			"db1 primary, db2 unknown quarantined, db3 replica", 0,
		},
		{
			"R5a: the standbys follow the new one", known,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 unknown quarantined, db2 primary, db3 replica", 3,
		},
		{
			"R5a: half of them is no majority", known,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3), standbyOf("db4", "db1", 2)},
			"db1 unknown conflict, db2 unknown conflict, db3 replica, db4 replica", 0,
		},
		{
			"R5a: nor is one that cannot say", known,
			rules{},
			[]saw{{name: "db1", status: Up, claim: policy.Primary, timeline: 2, senders: 1}, primaryOn("db2", 3), {name: "db3", status: Up, claim: policy.Replica}},
			"db1 unknown conflict, db2 unknown conflict, db3 replica", 0,
		},
		{
			"R5a: the address is right and the timeline is not", known,
			rules{},
			[]saw{{name: "db1", status: Up, claim: policy.Primary, timeline: 2, senders: 1}, primaryOn("db2", 3), standbyOf("db3", "db2", 2)},
			"db1 unknown conflict, db2 unknown conflict, db3 replica", 0,
		},
		{
			"R5a: the new one, while the old one takes no logins", known,
			rules{},
			[]saw{{name: "db1", status: NoLogin, claim: policy.Primary, timeline: 2}, primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 unknown quarantined, db2 primary, db3 replica", 3,
		},
		{
			"R5a: a fork can win", forked,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 unknown quarantined, db2 primary, db3 replica", 3,
		},
		{
			"R5b: two servers, the only standby promoted", known,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3)},
			"db1 unknown quarantined, db2 primary", 3,
		},
		{
			"R5b: not while the old one has a standby", known,
			rules{},
			[]saw{{name: "db1", status: Up, claim: policy.Primary, timeline: 2, senders: 1}, primaryOn("db2", 3)},
			"db1 unknown conflict, db2 unknown conflict", 0,
		},
		{
			"R5b: not one that was never a standby", known,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db9", 3)},
			"db1 unknown conflict, db9 unknown conflict", 0,
		},
		{
			"R5b: not one that was a standby long ago",
			memory{SystemIdentifier: "A", Primary: "db1", Epoch: 2, Standbys: map[string]uint32{"db2": 1}},
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3)},
			"db1 unknown conflict, db2 unknown conflict", 0,
		},
		{
			"R5b: not while the old one cannot be asked", known,
			rules{},
			[]saw{{name: "db1", status: Saturated, claim: policy.Primary, timeline: 2}, primaryOn("db2", 3)},
			"db1 unknown conflict, db2 unknown conflict", 0,
		},
		{
			"R5c: both at the first start",
			memory{},
			rules{},
			[]saw{primaryOn("db1", 1), primaryOn("db2", 2)},
			"db1 unknown conflict, db2 unknown conflict", 0,
		},
		{
			"R5: three", known,
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), primaryOn("db3", 4)},
			"db1 unknown conflict, db2 unknown conflict, db3 unknown conflict", 0,
		},
		{
			"R5: keep", known,
			rules{onConflict: ConflictKeep},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 primary, db2 unknown quarantined, db3 replica", 0,
		},
		{
			"R5: keep what, at the first start",
			memory{},
			rules{onConflict: ConflictKeep},
			[]saw{primaryOn("db1", 1), primaryOn("db2", 2)},
			"db1 unknown conflict, db2 unknown conflict", 0,
		},
		{
			"R5: newest", known,
			rules{onConflict: ConflictNewest},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db1", 2)},
			"db1 unknown quarantined, db2 primary, db3 replica", 3,
		},
		{
			"R5: two newest", known,
			rules{onConflict: ConflictNewest},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), primaryOn("db3", 3)},
			"db1 unknown conflict, db2 unknown conflict, db3 unknown conflict", 0,
		},
		{
			"R5: refuse", known,
			rules{onConflict: ConflictRefuse},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 unknown conflict, db2 unknown conflict, db3 replica", 0,
		},
		{
			"R5: the manager's word", known,
			rules{leader: "db2"},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db1", 2)},
			"db1 unknown quarantined, db2 primary, db3 replica", 3,
		},
		{
			"the manager cannot bring a stale primary back",
			memory{SystemIdentifier: "A", Primary: "db2", Epoch: 3},
			rules{leader: "db1"},
			[]saw{primaryOn("db1", 2), gone("db2", Down)},
			"db1 unknown quarantined, db2 unknown down", 0,
		},
		// The rest
		{
			"no login: the primary, and no new sessions", known,
			rules{},
			[]saw{{name: "db1", status: NoLogin, claim: policy.Primary, timeline: 2}},
			"db1 unknown no login", 0,
		},
		{
			"overruled by the operator", remembered().withFork("db2", fork{3, true}),
			rules{},
			[]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3)},
			"db1 primary, db2 unknown quarantined, db3 replica", 0,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := judge(c.memory, c.rules, observe(c.saw))
			if got := told(v); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			want := c.epoch
			if want == 0 {
				want = c.memory.Epoch
			}
			if v.memory.Epoch != want || v.primary >= 0 && v.memory.Primary != v.states[v.primary].Target.Name {
				t.Errorf("remembered is %+v, want epoch %d", v.memory, want)
			}
		})
	}
}

func TestJudgeKnowsARenamedServer(t *testing.T) {
	renamed := primaryOn("primary", 2).observation()
	renamed.target.Address = "db1:5432"
	v := judge(remembered(), rules{}, []observation{renamed})
	if told(v) != "primary primary" || v.memory.Primary != "primary" {
		t.Errorf("%s, %+v", told(v), v.memory)
	}
}

func TestJudgeDelayedStandby(t *testing.T) {
	late := standbyOf("db2", "db1", 2).observation()
	late.reading.delay = 3_600_000_000_000
	all := []observation{primaryOn("db1", 2).observation(), late}
	if v := judge(remembered(), rules{}, all); told(v) != "db1 primary, db2 unknown delayed" || v.states[1].Detail != "replays 1h0m0s late on purpose" {
		t.Errorf("%+v", v.states)
	}
	if v := judge(remembered(), rules{allowDelayed: true}, all); told(v) != "db1 primary, db2 replica" {
		t.Error(told(v))
	}
}

// A server that claimed beside the one that was served has missed what was written there, until it is a standby again.
func TestJudgeRemembersForks(t *testing.T) {
	m := remembered()
	step := func(want string, list ...saw) {
		t.Helper()
		v := judge(m, rules{}, observe(list))
		m = v.memory
		if told(v) != want {
			t.Errorf("got %s, want %s", told(v), want)
		}
	}
	old := saw{name: "db1", status: Up, claim: policy.Primary, timeline: 2, senders: 1}
	step("db1 primary, db2 unknown quarantined, db3 replica", old, primaryOn("db2", 3), standbyOf("db3", "db1", 2))
	step("db1 unknown down, db2 unknown quarantined, db3 replica", gone("db1", Down), primaryOn("db2", 3), standbyOf("db3", "db1", 0))
	step("db1 primary, db2 replica, db3 replica", old, standbyOf("db2", "db1", 2), standbyOf("db3", "db1", 2))
	step("db1 unknown down, db2 primary, db3 replica", gone("db1", Down), primaryOn("db2", 3), standbyOf("db3", "db1", 0))
	step("db1 unknown quarantined, db2 primary, db3 replica", primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3))
}

// The operator's word holds against every rule until it is not needed any more.
func TestJudgeAfterAccept(t *testing.T) {
	m := memory{SystemIdentifier: "A", Primary: "db2", Epoch: 3, Standbys: map[string]uint32{"db3": 3}}
	both := observe([]saw{primaryOn("db1", 2), primaryOn("db2", 3), standbyOf("db3", "db2", 3)})
	m = m.accepted(both[0], both)
	v := judge(m, rules{}, both)
	if told(v) != "db1 primary, db2 unknown quarantined, db3 replica" || v.memory.Epoch != 2 {
		t.Errorf("%s, %+v", told(v), v.memory)
	}
	// Restored from elsewhere: another identity, and whatever was remembered does not count.
	restored := observe([]saw{{name: "db1", status: Up, claim: policy.Primary, timeline: 1, identity: "B"}, primaryOn("db2", 3)})
	v = judge(m.accepted(restored[0], restored), rules{}, restored)
	if told(v) != "db1 primary, db2 unknown foreign" || len(v.memory.Forks) != 0 {
		t.Errorf("%s, %+v", told(v), v.memory)
	}
	// Whoever was primary and away while the operator decided is not heard either.
	alone := observe([]saw{primaryOn("db1", 2), gone("db2", Down)})
	m = memory{SystemIdentifier: "A", Primary: "db2", Epoch: 3}.accepted(alone[0], alone)
	v = judge(m, rules{onConflict: ConflictNewest}, both)
	if told(v) != "db1 primary, db2 unknown quarantined, db3 replica" {
		t.Error(told(v))
	}
}

// kinds are observations of one server in all that can make a difference.
func kinds(name string, others ...string) []observation {
	list := []observation{gone(name, Unknown).observation(), gone(name, Down).observation(), gone(name, Blind).observation()}
	for _, identity := range []string{"A", "B"} {
		for _, timeline := range []uint32{1, 2, 3} {
			for _, status := range []Status{Up, NoLogin} {
				list = append(list, saw{name: name, status: status, claim: policy.Primary, timeline: timeline, identity: identity}.observation())
			}
		}
		list = append(list, saw{name: name, status: Silent, identity: identity}.observation())
		for _, upstream := range others {
			list = append(list, saw{name: name, status: Up, claim: policy.Replica, timeline: 2, upstream: upstream, identity: identity}.observation())
		}
	}
	return list
}

// memories are what may be remembered when that is seen.
func memories() []memory {
	return []memory{
		{},
		{SystemIdentifier: "A"},
		{SystemIdentifier: "A", Primary: "db1", Epoch: 2, Standbys: map[string]uint32{"db2": 2}},
		{SystemIdentifier: "A", Primary: "db9", Epoch: 2, Standbys: map[string]uint32{"db1": 1, "db2": 2}, Forks: map[string]fork{"db3": {3, false}}},
		{SystemIdentifier: "B", Primary: "db2", Epoch: 1, Forks: map[string]fork{"db1": {3, true}}},
	}
}

// Everything that two servers, and nearly everything that three, can say: the order of the servers never matters, and nothing is
// served that must not be.
func TestJudgeEveryCombination(t *testing.T) {
	for _, m := range memories() {
		for on := ConflictAuto; on <= ConflictRefuse; on++ {
			for _, a := range kinds("db1", "db2") {
				for _, b := range kinds("db2", "db1", "db3") {
					checkJudged(t, m, rules{onConflict: on}, []observation{a, b})
					checkJudged(t, m, rules{onConflict: on, identity: "A"}, []observation{a, b})
					if on != ConflictAuto {
						continue
					}
					for _, c := range kinds("db3", "db2") {
						checkJudged(t, m, rules{}, []observation{a, b, c})
					}
				}
			}
		}
	}
}

// checkJudged checks what must hold whatever was observed.
func checkJudged(t *testing.T, m memory, r rules, observations []observation) {
	t.Helper()
	before := slices.Clone(observations)
	v := judge(m, r, observations)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nmemory %+v\nrules %+v\nobserved %+v\njudged %s\nremembered %+v", fmt.Sprintf(format, args...), m, r, observations, told(v), v.memory)
	}
	if !slices.Equal(before, observations) {
		fail("judge changed its argument")
	}
	known := m
	if r.identity != "" && r.identity != m.SystemIdentifier { // what is known is of another cluster
		known = memory{SystemIdentifier: r.identity}
	}
	if problem := wrong(v, known); problem != "" {
		fail("%s", problem)
	}
	for i, o := range observations {
		st := v.states[i]
		if st.Target != o.target || st.Claim != o.claim || st.Timeline != o.reading.timeline {
			fail("state %d is not of its server", i)
		}
		if (st.Status == Conflict || st.Status == Quarantined) && st.Role != policy.Unknown {
			fail("%s is served all the same", o.target.Name)
		}
		if st.Role == policy.Unknown && st.Status == Up {
			fail("%s is not served for no reason", o.target.Name)
		}
	}
	reversed := slices.Clone(observations)
	slices.Reverse(reversed)
	again := judge(m, r, reversed)
	slices.Reverse(again.states)
	if told(again) != told(v) || !again.memory.same(v.memory) {
		fail("the other way round it is %s, %+v", told(again), again.memory)
	}
	// Once judged, the same evidence is judged the same again.
	if settled := judge(v.memory, r, observations); !settled.memory.same(v.memory) {
		fail("a second look makes it %s, %+v", told(settled), settled.memory)
	}
}

// wrong returns what is wrong with a verdict, "" for nothing.
func wrong(v verdict, before memory) string {
	primaries := 0
	for i, st := range v.states {
		if st.Role != policy.Unknown && (v.memory.SystemIdentifier == "" || st.SystemIdentifier != v.memory.SystemIdentifier) {
			return "a stranger is served"
		}
		if st.Role != policy.Primary {
			continue
		}
		primaries++
		if i != v.primary || st.Claim != policy.Primary {
			return "a server is primary that should not be"
		}
		if st.Timeline != v.memory.Epoch || st.Timeline < before.Epoch {
			return "a stale primary is served"
		}
	}
	switch {
	case primaries > 1:
		return "there are two primaries"
	case v.memory.Epoch < before.Epoch:
		return "the epoch goes back"
	case before.SystemIdentifier != "" && v.memory.SystemIdentifier != before.SystemIdentifier:
		return "the identity changes"
	}
	return ""
}
