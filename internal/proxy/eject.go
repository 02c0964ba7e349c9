package proxy

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

const (
	// ejectAfter is how many clients in a row a replica must fail until it is ejected: tried after all others.
	ejectAfter = 3
	// ejectStep is how long the first ejection lasts; each following one lasts a step longer, up to ejectMost.
	ejectStep = 10 * time.Second
	ejectMost = 5 * time.Minute
)

// outlier is what is known of a server's failures towards clients. The zero value has none.
type outlier struct {
	failures int       // in a row
	times    int       // ejections in a row: each not long after the one before
	until    time.Time // when the last ejection ends
}

// failed notes that a server has failed one more client. It returns for how long the server is ejected, if this was one too
// many. The monitor may not see what clients see, or flap with it; an ejection only orders candidates, so nobody is refused for
// it, and no more than half of the replicas that known tells of are ejected at a time.
func (s *standings) failed(name string, known []policy.Backend, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.of(name).outlier
	o.failures++
	replicas, out, isReplica := 0, 0, false
	for _, b := range known {
		if b.Role == policy.Replica {
			replicas++
			isReplica = isReplica || b.Name == name
			if now.Before(s.of(b.Name).outlier.until) {
				out++
			}
		}
	}
	if o.failures < ejectAfter || now.Before(o.until) || !isReplica || 2*(out+1) > replicas {
		return 0
	}
	if now.Sub(o.until) > ejectMost { // it has been well for long
		o.times = 0
	}
	o.times++
	o.failures = 0
	d := min(time.Duration(o.times)*ejectStep, ejectMost)
	o.until = now.Add(d)
	return d
}

// succeeded notes that a server has answered a client.
func (s *standings) succeeded(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(name).outlier.failures = 0
}

// ours reports whether a dial failed for want of something on this side.
func ours(err error) bool {
	var dial *backends.DialError
	return errors.As(err, &dial) && dial.Local()
}

// fairTime is how long a server must have had to answer before its silence is held against it. A client may come with next to
// nothing left of the time for its login: strangers could have healthy servers passed over.
const fairTime = 500 * time.Millisecond

// errHurried is an attempt that had no fairTime.
var errHurried = errors.New("no time was left for the server to answer")

// hurried reports whether err is that a server has not answered in the time given, which was no fairTime.
func hurried(err error, given time.Duration) bool {
	return given < fairTime && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded))
}
