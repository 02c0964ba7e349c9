package backends

import (
	"errors"
	"sync"
	"time"
)

// keeper writes the state file in the background, one writing at a time: a slow disk must not keep anybody from being fenced.
type keeper struct {
	path string
	// kept is what is in the file, or would be if err were nil: what cannot be written is gone by all the same.
	kept memory
	err  error
	// retry is when a failed writing is tried again.
	retry time.Time

	writing *memory     // nil while none is written
	done    chan error  // of the writing
	slow    *time.Timer // fires when it takes too long
}

const (
	// slowWrite is how long a new primary waits for the file.
	slowWrite = 5 * time.Second
	// retryWrite is the time between attempts while the file cannot be written.
	retryWrite = 30 * time.Second
)

// errSlowWrite is a disk that does not answer.
var errSlowWrite = errors.New("writing takes very long")

// holds reports whether a primary may be served by m.
func (k *keeper) holds(m memory) bool { return k.path == "" || k.kept.essence() == m.essence() }

// keep begins to write m if that is due.
func (k *keeper) keep(now time.Time, m memory, primary bool, work *sync.WaitGroup) {
	due := !m.same(k.kept) || !primary && m.Position != k.kept.Position || k.err != nil && !now.Before(k.retry)
	if k.path == "" || k.writing != nil || !due {
		return
	}
	done := make(chan error, 1)
	k.writing, k.done, k.slow = &m, done, time.NewTimer(slowWrite)
	work.Go(func() { done <- saveMemory(k.path, m) })
}

// stored takes in the end of a writing, or errSlowWrite while it goes on.
func (k *keeper) stored(now time.Time, err error) {
	k.kept, k.err, k.retry = *k.writing, err, now.Add(retryWrite)
	if !errors.Is(err, errSlowWrite) {
		k.slow.Stop()
		k.writing, k.done, k.slow = nil, nil, nil
	}
}

// late is the channel of the timer, nil while nothing is written.
func (k *keeper) late() <-chan time.Time {
	if k.slow == nil {
		return nil
	}
	return k.slow.C
}
