//go:build !relay_goroutines

package relay

import (
	"fmt"
	"sync"

	"github.com/replicon/pgreplicaproxy/internal/cores"
)

// Engine runs relays, on Linux by event loops. The zero value is ready. It is closed after the last relay has ended.
type Engine struct {
	mu    sync.Mutex
	loops []*loop
}

// loopCount is how many loops share the sessions. A loop alone does small transactions with the least work, because events
// come to it in batches; more are for more cores, half of which are the servers' or the handshakes'.
func loopCount() int { return max(1, cores.Count()/2) }

// Start takes over both connections and relays between them. It returns at once; cfg.Ended tells the end. After an error
// both connections are closed.
func (e *Engine) Start(cfg Config) (*Relay, error) {
	l, err := e.loop()
	if err != nil {
		_ = cfg.Client.Conn.Close()
		_ = cfg.Server.Conn.Close()
		return nil, err
	}
	r, err := newRelay(l, cfg)
	if err != nil {
		l.sessions.Add(-1)
		return nil, err
	}
	l.post(r.begin)
	return r, nil
}

// loop returns the loop with the fewest sessions, and counts one more there.
func (e *Engine) loop() (*loop, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for count := loopCount(); len(e.loops) < count; {
		l, err := newLoop()
		if err != nil {
			return nil, fmt.Errorf("start event loop: %w", err)
		}
		e.loops = append(e.loops, l)
	}
	least := e.loops[0]
	for _, l := range e.loops[1:] {
		if l.sessions.Load() < least.sessions.Load() {
			least = l
		}
	}
	least.sessions.Add(1)
	return least, nil
}

// Close releases what the Engine holds. No relay may be running.
func (e *Engine) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.loops {
		l.stop()
	}
	e.loops = nil
}
