package backends

import (
	"errors"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// What one probe can come to, in the words of the tests below.
var (
	primary = reading{role: policy.Primary, systemIdentifier: "A"}
	replica = reading{role: policy.Replica, systemIdentifier: "A"}

	silent        = &fault{status: Silent, soft: true, detail: "no answer", err: errors.New("timeout")}
	broke         = &fault{status: Down, soft: true, detail: "closes connections", err: errors.New("EOF")}
	refused       = &fault{status: Down, detail: "connection refused", err: errors.New("refused")}
	starting      = &fault{status: Starting, detail: "starting up", err: errors.New("57P03")}
	saturated     = &fault{status: Saturated, detail: "full", err: errors.New("53300")}
	misconfigured = &fault{status: Misconfigured, detail: "password", err: errors.New("28P01")}
	blind         = &fault{status: Blind, detail: "DNS", err: errors.New("no such host")}

	isPrimary = outcome{reading: &primary}
	isReplica = outcome{reading: &replica}
	asPrimary = outcome{reading: &primary, loggedIn: true}
	asReplica = outcome{reading: &replica, loggedIn: true}
)

func noLogin(f *fault) outcome              { return outcome{login: f} }
func noAnswerTo(f *fault) outcome           { return outcome{query: f} }
func onlyOld(r reading, f *fault) outcome   { return outcome{reading: &r, login: f} }
func neither(login, query *fault) outcome   { return outcome{login: login, query: query} }
func after(d time.Duration, o outcome) step { return step{outcome: o, later: d} }

// step is one probe, and what is to be thought of the server after it.
type step struct {
	outcome
	later  time.Duration // since the step before
	status Status
	claim  policy.Role
	urgent bool
}

func (s step) is(status Status, claim policy.Role) step {
	s.status, s.claim = status, claim
	return s
}

func (s step) atOnce() step {
	s.urgent = true
	return s
}

func TestRecord(t *testing.T) {
	const unknown, p, r = policy.Unknown, policy.Primary, policy.Replica
	now := func(o outcome) step { return after(time.Second, o) }
	for name, steps := range map[string][]step{
		"one answer is enough at first": {
			now(asReplica).is(Up, r),
		},
		"promotion, and a role that is left at the first word of it": {
			now(asReplica).is(Up, r), now(isPrimary).is(Up, p), now(isReplica).is(Up, r),
		},
		"refused: a replica wants two answers to come back": {
			now(asReplica).is(Up, r), now(noLogin(refused)).is(Down, unknown), now(noLogin(refused)).is(Down, unknown),
			now(asReplica).is(Down, unknown).atOnce(), now(isReplica).is(Up, r),
		},
		"refused: the answers have to follow each other": {
			now(noLogin(refused)).is(Down, unknown), now(asReplica).is(Down, unknown).atOnce(),
			now(noLogin(refused)).is(Down, unknown), now(asReplica).is(Down, unknown).atOnce(), now(isReplica).is(Up, r),
		},
		"refused: a primary wants one answer": {
			now(asPrimary).is(Up, p), now(noLogin(refused)).is(Down, unknown), now(asPrimary).is(Up, p),
		},
		"silence: the third miss counts": {
			now(asPrimary).is(Up, p), now(noAnswerTo(silent)).is(Up, p).atOnce(), now(noLogin(silent)).is(Up, p).atOnce(),
			now(noLogin(silent)).is(Silent, unknown), now(noLogin(silent)).is(Silent, unknown), now(asPrimary).is(Up, p),
		},
		"silence: a login and a question count two": {
			now(asPrimary).is(Up, p), now(neither(silent, silent)).is(Up, p).atOnce(), now(noLogin(silent)).is(Silent, unknown),
		},
		"silence: an answer ends the count": {
			now(asPrimary).is(Up, p), now(noAnswerTo(silent)).is(Up, p).atOnce(), now(noAnswerTo(silent)).is(Up, p).atOnce(),
			now(asPrimary).is(Up, p), now(noAnswerTo(silent)).is(Up, p).atOnce(), now(noAnswerTo(silent)).is(Up, p).atOnce(),
		},
		"silence from the start": {
			now(noLogin(silent)).is(Unknown, unknown).atOnce(), now(noLogin(silent)).is(Unknown, unknown).atOnce(),
			now(noLogin(silent)).is(Silent, unknown),
		},
		"connections that break": {
			now(asReplica).is(Up, r), now(noAnswerTo(broke)).is(Up, r).atOnce(), now(noLogin(broke)).is(Up, r).atOnce(),
			now(noLogin(broke)).is(Down, unknown),
		},
		"57P03: out at once": {
			now(asReplica).is(Up, r), now(noLogin(starting)).is(Starting, unknown),
			now(asReplica).is(Starting, unknown).atOnce(), now(isReplica).is(Up, r),
		},
		"57P03 after silence is not silence": {
			now(noLogin(silent)).is(Unknown, unknown).atOnce(), now(noLogin(silent)).is(Unknown, unknown).atOnce(),
			now(noLogin(starting)).is(Starting, unknown), now(noLogin(silent)).is(Starting, unknown).atOnce(),
		},
		"53300 with the old session: the role is known": {
			now(asPrimary).is(Up, p), after(time.Minute, onlyOld(primary, saturated)).is(Saturated, p),
			after(time.Minute, onlyOld(replica, saturated)).is(Saturated, r), now(asReplica).is(Up, r),
		},
		"wrong password with the old session: the role is known": {
			now(asPrimary).is(Up, p), after(time.Minute, onlyOld(primary, misconfigured)).is(Misconfigured, p), now(asPrimary).is(Up, p),
		},
		"wrong password without a session: the role is kept for a while": {
			now(asPrimary).is(Up, p), now(noLogin(misconfigured)).is(Misconfigured, p),
			after(29*time.Second, noLogin(misconfigured)).is(Misconfigured, p),
			after(time.Second, noLogin(misconfigured)).is(Misconfigured, unknown), now(asPrimary).is(Up, p),
		},
		"wrong password from the start": {
			now(noLogin(misconfigured)).is(Misconfigured, unknown), now(asReplica).is(Up, r),
		},
		"wrong password after the server was down: the old role is not taken up again": {
			now(asPrimary).is(Up, p), now(noLogin(refused)).is(Down, unknown), now(noLogin(misconfigured)).is(Misconfigured, unknown),
		},
		"our own fault: the role is kept for a while": {
			now(asReplica).is(Up, r), now(noLogin(blind)).is(Blind, r), after(staleMax, noLogin(blind)).is(Blind, unknown),
		},
		"our own fault does not end a silence": {
			now(asReplica).is(Up, r), now(noLogin(silent)).is(Up, r).atOnce(), now(noLogin(silent)).is(Up, r).atOnce(),
			now(noLogin(blind)).is(Blind, r), now(noLogin(silent)).is(Silent, unknown),
		},
		"no logins: the third that hangs counts, and the claim stays": {
			now(asPrimary).is(Up, p), now(onlyOld(primary, silent)).is(Up, p).atOnce(), now(onlyOld(primary, silent)).is(Up, p).atOnce(),
			now(onlyOld(primary, silent)).is(NoLogin, p), now(onlyOld(primary, silent)).is(NoLogin, p), now(asPrimary).is(Up, p),
		},
		"no logins for long: a primary loses its sessions": {
			now(asPrimary).is(Up, p), now(onlyOld(primary, silent)).is(Up, p).atOnce(), now(onlyOld(primary, silent)).is(Up, p).atOnce(),
			after(28*time.Second, onlyOld(primary, silent)).is(NoLogin, p), after(time.Second, onlyOld(primary, silent)).is(Silent, unknown),
			after(time.Minute, onlyOld(primary, silent)).is(Silent, unknown), now(asPrimary).is(Up, p),
			now(onlyOld(primary, silent)).is(Up, p).atOnce(),
		},
		"no logins for long: a replica does not": {
			now(asReplica).is(Up, r), now(onlyOld(replica, silent)).is(Up, r).atOnce(), now(onlyOld(replica, silent)).is(Up, r).atOnce(),
			after(time.Minute, onlyOld(replica, silent)).is(NoLogin, r),
		},
		"no logins on a replica: two answers": {
			now(asReplica).is(Up, r), now(onlyOld(replica, broke)).is(Up, r).atOnce(), now(onlyOld(replica, broke)).is(Up, r).atOnce(),
			now(onlyOld(replica, broke)).is(NoLogin, r), now(asReplica).is(NoLogin, r).atOnce(), now(isReplica).is(Up, r),
		},
		"no logins, then promoted": {
			now(asReplica).is(Up, r), now(onlyOld(replica, silent)).is(Up, r).atOnce(), now(onlyOld(replica, silent)).is(Up, r).atOnce(),
			now(onlyOld(replica, silent)).is(NoLogin, r), now(onlyOld(primary, silent)).is(NoLogin, p),
		},
		"no logins, then silence": {
			now(asPrimary).is(Up, p), now(onlyOld(primary, silent)).is(Up, p).atOnce(), now(onlyOld(primary, silent)).is(Up, p).atOnce(),
			now(onlyOld(primary, silent)).is(NoLogin, p), now(neither(silent, silent)).is(NoLogin, p).atOnce(),
			now(noLogin(silent)).is(Silent, unknown),
		},
	} {
		t.Run(name, func(t *testing.T) {
			rec := record{loginFall: 30 * time.Second}
			at := time.Unix(1_000_000, 0)
			for i, s := range steps {
				at = at.Add(s.later)
				rec = rec.fold(s.outcome, at)
				if rec.status != s.status || rec.claim != s.claim || rec.urgent != s.urgent {
					t.Fatalf("step %d: %s, %s, urgent %t; want %s, %s, %t",
						i+1, rec.status, rec.claim, rec.urgent, s.status, s.claim, s.urgent)
				}
				if (rec.status == Up) != (rec.detail == "" && rec.err == nil) && rec.status != Unknown {
					t.Fatalf("step %d: %s with detail %q, error %v", i+1, rec.status, rec.detail, rec.err)
				}
			}
		})
	}
}

// The bound that the documentation promises: silence is found after one interval and three timeouts.
func TestRecordFindsSilenceInTime(t *testing.T) {
	rec := record{}.fold(asPrimary, time.Unix(0, 0))
	if got := rec.pause(DefaultInterval); got != DefaultInterval {
		t.Errorf("pause when all is well is %s", got)
	}
	waited := rec.pause(DefaultInterval)
	for rec.status == Up {
		waited += DefaultTimeout
		rec = rec.fold(noLogin(silent), time.Unix(0, 0).Add(waited))
		if rec.status == Up {
			waited += rec.pause(DefaultInterval)
		}
	}
	if waited > 4*time.Second {
		t.Errorf("silence is found after %s", waited)
	}
}

func TestRecordPause(t *testing.T) {
	for status := Unknown; status <= Foreign; status++ {
		rec := record{observation: observation{status: status}}
		if got := rec.pause(time.Hour); (got == time.Hour) != (status == Up) || got <= 0 {
			t.Errorf("%s: pause of %s", status, got)
		}
		if got := rec.pause(time.Millisecond); got != time.Millisecond {
			t.Errorf("%s: pause of %s with an interval of 1 ms", status, got)
		}
	}
}
