package backends

import (
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

const (
	// fall is how many soft faults in a row withdraw a role: one may be a lost packet or a busy moment.
	fall = 3
	// rise is how many answers in a row bring back a replica that was out. One is enough for a primary.
	rise = 2
	// loginFall times FreshLogin is how long a primary that lets nobody log in keeps the sessions it has: they work, and a lock may be
	// all that holds logins up, but no failover would follow if that were the end of it.
	loginFall = 3
	// staleMax is how long a role is believed that cannot be confirmed, while nothing speaks against it.
	staleMax = 30 * time.Second
	// quick and soon bound the time to the next question to a server that is expected back any moment, and to one that has
	// another trouble.
	quick = 500 * time.Millisecond
	soon  = time.Second
)

// outcome is how one probe went: a login where one was due, and the question, on the new session or the old one.
type outcome struct {
	// reading is the answer, nil for none.
	reading *reading
	// loggedIn is true if a login was due and succeeded; login is why not.
	loggedIn bool
	login    *fault
	// query is why an existing session gave no answer.
	query *fault
	// overslept is true if one of the two is silence that the proxy was not awake to hear the end of.
	overslept bool
}

// record is the history of one server as far as it matters: what it is taken for, and what that stands on. Its methods
// are pure.
type record struct {
	observation
	// loginFall is how long a primary keeps its sessions while nobody can log in to it; zero is for ever. loginMissed is when that
	// began.
	loginFall   time.Duration
	loginMissed time.Time
	// misses counts the soft faults since the last answer of any kind, loginMisses those of logins since the last one that
	// succeeded.
	misses, loginMisses int
	// wanted is how many answers it takes until the server counts as back.
	wanted int
	// urgent wants the next probe at once.
	urgent bool
}

// fold returns the record with one more probe in it.
func (r record) fold(o outcome, now time.Time) record {
	r.urgent = false
	if o.loggedIn {
		r.loginMisses = 0
	}
	if o.login != nil && o.login.soft {
		if r.loginMisses++; r.loginMisses == 1 {
			r.loginMissed = now
		}
	}
	if o.reading == nil {
		return r.unanswered(o, now)
	}
	r.reading, r.answered, r.misses = *o.reading, now, 0
	switch {
	case o.login == nil:
		return r.good()
	case !o.login.soft: // the login path answers, if not as the monitor would like
		r.claim, r.wanted = r.reading.role, 0
		return r.troubled(o.login)
	case r.loginMisses < fall:
		r = r.good()
		r.urgent = true
		return r
	case r.reading.role == policy.Primary && r.loginFall > 0 && now.Sub(r.loginMissed) >= r.loginFall:
		return r.out(&fault{status: Silent, detail: "accepts no logins for too long: " + o.login.detail, err: o.login.err})
	default:
		r.status, r.detail, r.err = NoLogin, "accepts no logins: "+o.login.detail, o.login.err
		r.claim, r.wanted = r.reading.role, rise
		return r
	}
}

// good takes in an answer with which nothing is wrong. A role is left at the first answer that says so, and entered at the
// first one too, unless the server is a replica that was out.
func (r record) good() record {
	if r.wanted--; r.wanted > 0 && r.reading.role == policy.Replica {
		r.urgent = true
		return r
	}
	r.status, r.claim, r.detail, r.err, r.wanted = Up, r.reading.role, "", nil, 0
	return r
}

// unanswered takes in a probe that found out nothing about the role.
func (r record) unanswered(o outcome, now time.Time) record {
	f := o.login
	if f == nil || f.soft && o.query != nil {
		f = o.query
	}
	switch {
	case f.soft:
		for _, each := range []*fault{o.login, o.query} {
			if each != nil && each.soft {
				r.misses++
			}
		}
		if r.misses >= fall {
			r = r.out(f)
			break
		}
		r.urgent = true
		if r.status == Unknown {
			r.detail, r.err = f.detail, f.err
		}
	case f.gone():
		r.misses = 0
		r = r.out(f)
	default:
		if f.status != Blind { // the server did answer
			r.misses = 0
		}
		r = r.troubled(f)
	}
	if now.Sub(r.answered) > staleMax {
		r.claim = policy.Unknown
	}
	return r
}

// troubled notes a fault that says nothing about the role.
func (r record) troubled(f *fault) record {
	r.status, r.detail, r.err = f.status, f.detail, f.err
	return r
}

// out withdraws the role.
func (r record) out(f *fault) record {
	r.claim, r.wanted = policy.Unknown, rise
	return r.troubled(f)
}

// pause returns how long the server is left alone, at most, before the next probe.
func (r record) pause(interval time.Duration) time.Duration {
	switch {
	case r.urgent:
		return 0
	case r.status == Up:
		return interval
	case r.status == Starting, r.status == Down, r.status == Silent, r.status == NoLogin:
		return min(interval, quick)
	default:
		return min(interval, soon)
	}
}
