package tlsfront

import (
	"context"
	"crypto/sha256"
	"os"
	"sync"
	"time"
)

// fileWatch knows whether files hold what was loaded from them the last time. It goes by their contents, which it reads again and
// again: files this small cost less than the ways in which a modification time or a notification can be missed, on network file
// systems and behind the symbolic links that Kubernetes exchanges.
type fileWatch struct {
	files []string

	mu     sync.Mutex // so that of two reloads the later reading wins
	loaded [sha256.Size]byte
	err    error // of the last reload
	errAt  time.Time
}

// reload calls load and notes how it went.
func (w *fileWatch) reload(load func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	contents := w.contents() // before load: what changes in between is seen as a change
	w.err = load()
	if w.err != nil {
		w.errAt = time.Now()
		return w.err
	}
	w.loaded = contents
	return nil
}

// failed returns when the last reload was and its error, nil if it went well.
func (w *fileWatch) failed() (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errAt, w.err
}

// watch reloads when the contents have changed, until ctx ends, and tells how it went. Files that cannot be loaded are told
// once, and only when they are the same the next time: they may be just being replaced, one after the other.
func (w *fileWatch) watch(ctx context.Context, interval time.Duration, load func() error, told func(error)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var refused, reported [sha256.Size]byte
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		contents := w.contents()
		w.mu.Lock()
		same := contents == w.loaded
		w.mu.Unlock()
		if same || contents == reported {
			continue
		}
		switch err := w.reload(load); {
		case err == nil:
			reported = [sha256.Size]byte{}
			told(nil)
		case contents == refused:
			reported = contents
			told(err)
		}
		refused = contents
	}
}

// contents is a hash of all files, or of why they cannot be read.
func (w *fileWatch) contents() [sha256.Size]byte {
	hash := sha256.New()
	for _, name := range w.files {
		data, err := os.ReadFile(name)
		if err != nil {
			data = []byte(err.Error())
		}
		sum := sha256.Sum256(data)
		hash.Write(sum[:])
	}
	return [sha256.Size]byte(hash.Sum(nil))
}
