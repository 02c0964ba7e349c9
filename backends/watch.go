package backends

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// breath is the least time between two probes that are brought forward: however often clients complain of a server, and however
// often it ends the monitor's session, it is not asked more often.
const breath = 100 * time.Millisecond

// mostOverslept is how many probes in a row may come to nothing because the proxy itself was not awake when their time was over. A
// server that is silent is found all the same, later, by a proxy that never is.
const mostOverslept = 3

// watcher asks one server. What stands below wake belongs to the goroutine in watch.
type watcher struct {
	target Target
	config *MonitorConfig
	logIn  func(context.Context) (*session, error)
	before *watcher      // that ends and asks the same server in another way; nil for none
	done   chan struct{} // closed when it has ended
	wake   chan struct{} // has one place: a suspicion

	session *session // nil for none
	// fresh is when the session began; stale wants another one whatever the time.
	fresh time.Time
	stale bool
	// hurried is when the last probe began that was brought forward.
	hurried time.Time
	// overslept counts the last probes as mostOverslept does.
	overslept int
	record    record
}

// watch asks the server over and over, and reports what it is found to be, until the context ends. It goes on with what
// the watcher before it knows of the server.
func (w *watcher) watch(ctx context.Context, report func(observation)) {
	defer close(w.done)
	defer w.leave()
	if w.before != nil {
		<-w.before.done
		w.record, w.before = w.before.record, nil
	}
	for {
		began := w.config.now()
		o := w.probe(ctx)
		if ctx.Err() != nil { // what it was interrupted in says nothing
			return
		}
		if w.config.OnProbe != nil {
			w.config.OnProbe(w.record.target.Name, o.reading != nil, w.config.now().Sub(began))
		}
		if w.overslept++; !o.overslept {
			w.overslept = 0
		} else if w.overslept <= mostOverslept {
			continue
		}
		w.record.loginFall = loginFall * w.config.FreshLogin
		w.record = w.record.fold(o, w.config.now())
		report(w.record.observation)
		w.rest(ctx)
	}
}

// probe logs in if that is due, and asks. A session is given up for the next one only when that works: a server that lets
// nobody log in may well answer on the old one.
func (w *watcher) probe(ctx context.Context) outcome {
	var o outcome
	if w.due() <= 0 {
		began := w.config.now()
		fresh, answer, err := w.enter(ctx)
		if err == nil {
			w.leave()
			w.session, w.fresh, w.stale = fresh, w.config.now(), false
			return outcome{reading: &answer, loggedIn: true}
		}
		w.stale = true
		o.login = diagnose(err)
		o.overslept = w.asleep(o.login, began)
		if o.login.gone() { // a server that is shutting down waits for our session too
			w.leave()
		}
		if w.session == nil {
			return o
		}
	}
	began := w.config.now()
	ctx, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	answer, err := w.session.ask(ctx)
	if err != nil {
		o.query = diagnose(err)
		o.overslept = o.overslept || w.asleep(o.query, began)
		if w.session.over() {
			w.leave()
		}
		return o
	}
	o.reading = &answer
	return o
}

// asleep reports whether a part of a probe that got no answer in time may have failed for the proxy's own sake: that its time was
// over was noticed so late that the proxy, stopped or starved, may have missed the answer too.
func (w *watcher) asleep(f *fault, began time.Time) bool {
	late := w.config.now().Sub(began) - w.config.Timeout - grace
	return f.status == Silent && late > w.config.Timeout/4
}

// due returns the time until a login is due.
func (w *watcher) due() time.Duration {
	if w.session == nil || w.stale {
		return 0
	}
	return w.fresh.Add(w.config.FreshLogin).Sub(w.config.now())
}

// enter opens a session and asks its first question. A refused connection is tried once more, so that the answer is
// certain.
func (w *watcher) enter(ctx context.Context) (*session, reading, error) {
	s, answer, err := w.enterOnce(ctx)
	if dial := (*DialError)(nil); errors.As(err, &dial) && dial.Refused() {
		return w.enterOnce(ctx)
	}
	return s, answer, err
}

// enterOnce gives one login and one question together the time of one probe.
func (w *watcher) enterOnce(ctx context.Context) (*session, reading, error) {
	ctx, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	s, err := w.logIn(ctx)
	if err != nil {
		return nil, reading{}, err
	}
	answer, err := s.ask(ctx)
	if err != nil {
		s.close()
		return nil, reading{}, err
	}
	return s, answer, nil
}

// rest waits until the next probe is due: because it is time, because somebody suspects the server, or because the session
// ended, which is how a crash shows long before it is time.
func (w *watcher) rest(ctx context.Context) {
	pause := w.record.pause(w.config.Interval)
	if pause == 0 {
		return
	}
	if w.record.status == Up {
		pause = min(pause, w.due())
	}
	// The jitter keeps several proxies from asking in step. It only shortens, so that an interval is a bound.
	pause -= time.Duration(rand.Float64() * 0.2 * float64(pause))
	tick := time.NewTimer(pause)
	defer tick.Stop()
	ended, stop := w.listen(ctx)
	defer stop()
	select {
	case <-ctx.Done():
		return
	case <-tick.C:
		return
	case <-w.wake:
	case <-ended:
	}
	w.stale = true
	select {
	case <-ctx.Done():
	case <-time.After(breath - w.config.now().Sub(w.hurried)):
	}
	w.hurried = w.config.now()
}

// listen keeps a read pending on the session until stop is called, which waits for its end. The channel is closed when
// the session is over; it is nil when there is no session.
func (w *watcher) listen(ctx context.Context) (ended <-chan struct{}, stop func()) {
	s := w.session
	if s == nil {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	over, done := make(chan struct{}), make(chan struct{})
	go s.listen(ctx, over, done)
	return over, func() {
		cancel()
		<-done
		if s.over() {
			w.leave()
		}
	}
}

// leave ends the session, if there is one.
func (w *watcher) leave() {
	if w.session != nil {
		w.session.close()
		w.session = nil
	}
}
