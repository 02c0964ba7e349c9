package backends

import (
	"context"
	"net"
	"os"
	"testing"
	"time"
)

// sleeper is a watcher of a server that never answers, in a proxy that notices so late that the time of a login is over. probes
// counts the logins.
func sleeper(late func(login int) time.Duration) (w *watcher, probes *int) {
	now := time.Unix(1_000_000, 0)
	config := MonitorConfig{now: func() time.Time { return now }}.settled()
	probes = new(int)
	return &watcher{
		config: &config, done: make(chan struct{}), wake: make(chan struct{}, 1),
		logIn: func(context.Context) (*session, error) {
			*probes++
			now = now.Add(config.Timeout + late(*probes))
			return nil, &DialError{Stage: StageConnect, Err: os.ErrDeadlineExceeded}
		},
	}, probes
}

// Silence whose end is noticed in time counts; one that the proxy may have slept through is looked at again, but not for ever.
func TestOversleeping(t *testing.T) {
	for name, c := range map[string]struct {
		late func(login int) time.Duration
		want int
	}{
		"awake":       {func(int) time.Duration { return grace }, 1},
		"asleep":      {func(int) time.Duration { return time.Minute }, mostOverslept + 1},
		"asleep once": {func(login int) time.Duration { return max(grace, time.Duration(2-login)*time.Minute) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w, probes := sleeper(c.late)
			ctx, cancel := context.WithCancel(context.Background())
			counted := 0
			w.watch(ctx, func(observation) {
				counted = *probes
				cancel()
			})
			if counted != c.want || w.record.misses != 1 {
				t.Errorf("%d misses after %d probes, want 1 after %d", w.record.misses, counted, c.want)
			}
		})
	}
}

// deadlines is a connection that notes its deadline.
type deadlines struct {
	net.Conn
	last time.Time
}

func (d *deadlines) SetDeadline(t time.Time) error {
	d.last = t
	return nil
}

// A question whose time is over has a moment yet; one that was called off has none.
func TestInterrupter(t *testing.T) {
	conn := new(deadlines)
	before := time.Now()
	expired, cancel := context.WithDeadline(context.Background(), before)
	defer cancel()
	interrupter{conn}.HandleCancel(expired)
	if conn.last.Before(before.Add(grace)) {
		t.Errorf("%v left for the answer, want %v", conn.last.Sub(before), grace)
	}
	calledOff, cancel := context.WithCancel(context.Background())
	cancel()
	interrupter{conn}.HandleCancel(calledOff)
	if conn.last.After(time.Now()) {
		t.Error("a question that was called off goes on")
	}
	if (interrupter{conn}).HandleUnwatchAfterCancel(); !conn.last.IsZero() {
		t.Errorf("the deadline stays at %v", conn.last)
	}
}
