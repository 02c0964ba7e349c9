//go:build !linux || relay_goroutines

package relay

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// Engine runs relays, here by two goroutines for each: the way for systems without an event loop of ours. The zero value is
// ready. It is closed after the last relay has ended.
type Engine struct{}

// Close releases what the Engine holds. No relay may be running.
func (*Engine) Close() {}

// Relay is one session being relayed. Its methods may be called from anywhere, also after its end.
type Relay struct {
	cfg Config
	// toServer and toClient count bytes that were written.
	toServer, toClient atomic.Uint64
	// asked is the number of requests that want an answer, and answered that of answers; each is unsettled while its
	// direction stands in the middle of something.
	asked, answered atomic.Uint64
	detached        atomic.Bool
	terminated      atomic.Bool   // by the client
	said            atomic.Uint32 // the type of the server's last message

	ending atomic.Pointer[Ending]
	timer  *time.Timer // of an idle ending with a deadline; guarded by endMu
	endMu  sync.Mutex

	// up guards the client's direction: its walker, and the decision that nothing more is forwarded to the server.
	up struct {
		sync.Mutex
		walker wire.Walker
		closed bool
	}
	// down is the server's direction, for the goroutine that pumps it alone.
	down wire.Walker
	// waited is true once the end of the session has waited for a boundary; pumpToClient's too.
	waited bool

	pumps  atomic.Int32 // pumps still running
	result Result       // Notified and Interrupted are pumpToClient's
	once   sync.Once    // of its cause
}

// Start takes over both connections and relays between them. It returns at once; cfg.Ended tells the end. After an error
// both connections are closed.
func (*Engine) Start(cfg Config) (*Relay, error) {
	r := &Relay{cfg: cfg}
	r.pumps.Store(2)
	go r.pumpToServer()
	go r.pumpToClient()
	return r, nil
}

// Stats returns the counts of now.
func (r *Relay) Stats() Stats {
	return Stats{ToServer: r.toServer.Load(), ToClient: r.toClient.Load()}
}

// Busy reports whether something is under way: a request without its answer, or a transaction. Between two looks it may have
// been otherwise.
func (r *Relay) Busy() bool {
	answered := r.answered.Load()
	return answered == unsettled || r.asked.Load() > answered
}

// Detached reports whether the session is done with its server: nothing passes between that and the client any more, even if
// the client is still reading what it was told last.
func (r *Relay) Detached() bool { return r.detached.Load() }

// unsettled is no number of requests or answers.
const unsettled = math.MaxUint64

// settle notes why the session ended; the first cause counts.
func (r *Relay) settle(cause Cause, err error) {
	r.once.Do(func() {
		r.result.Cause, r.result.Err = cause, err
		if r.cfg.Lost != nil && lost(cause, r.terminated.Load(), byte(r.said.Load())) {
			r.cfg.Lost()
		}
	})
}

// leave ends a pump; the last one closes what is left and reports the result.
func (r *Relay) leave() {
	if r.pumps.Add(-1) > 0 {
		return
	}
	_ = r.cfg.Client.Conn.Close() // nothing is left to lose: both directions have ended
	_ = r.cfg.Server.Conn.Close()
	r.detached.Store(true)
	r.endMu.Lock()
	if r.timer != nil {
		r.timer.Stop()
	}
	r.endMu.Unlock()
	r.result.Stats = r.Stats()
	r.cfg.Ended(r.result) // in this pump's goroutine, which has nothing else to do
}
