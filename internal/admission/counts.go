package admission

import (
	"container/list"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

// counts counts what is there, by key. Keys without any take no memory. The zero value is empty and ready.
type counts[K comparable] struct {
	total int
	by    map[K]int
}

func (c *counts[K]) of(key K) int { return c.by[key] }

func (c *counts[K]) add(key K) {
	if c.by == nil {
		c.by = make(map[K]int)
	}
	c.total++
	c.by[key]++
}

func (c *counts[K]) remove(key K) {
	c.total--
	if c.by[key]--; c.by[key] <= 0 {
		delete(c.by, key)
	}
}

// lru is a map of a fixed size, which forgets what was not looked at for longest.
type lru[K comparable, V any] struct {
	size    int
	entries map[K]*list.Element
	order   *list.List // of lruEntry, the latest first
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](size int) *lru[K, V] {
	return &lru[K, V]{size: size, entries: make(map[K]*list.Element), order: list.New()}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.entries[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(lruEntry[K, V]).value, true
}

// put adds a key that is not there.
func (l *lru[K, V]) put(key K, value V) {
	if len(l.entries) >= l.size {
		oldest := l.order.Back()
		delete(l.entries, oldest.Value.(lruEntry[K, V]).key)
		l.order.Remove(oldest)
	}
	l.entries[key] = l.order.PushFront(lruEntry[K, V]{key, value})
}

func (l *lru[K, V]) remove(key K) {
	if e, ok := l.entries[key]; ok {
		l.order.Remove(e)
		delete(l.entries, key)
	}
}

// tracked is how many keys each of the tables remembers, some 200 bytes each.
const tracked = 1 << 15

type bucket = rate.Limiter

// buckets are token buckets for many keys, such as prefixes. One that is forgotten was full, or belongs to the oldest of very many.
type buckets[K comparable] struct {
	perSecond rate.Limit
	burst     int
	by        *lru[K, *bucket]
}

func newBuckets[K comparable](perSecond rate.Limit, burst int) buckets[K] {
	return buckets[K]{perSecond, burst, newLRU[K, *bucket](tracked)}
}

// take takes a token and returns how long to wait for it, or false when that is longer than patience.
func (b *buckets[K]) take(key K, now time.Time, patience time.Duration) (time.Duration, bool) {
	one, ok := b.by.get(key)
	if !ok {
		one = rate.NewLimiter(b.perSecond, b.burst)
		b.by.put(key, one)
	}
	r := one.ReserveN(now, 1)
	delay := r.DelayFrom(now)
	if !r.OK() || delay > patience {
		r.CancelAt(now)
		return 0, false
	}
	return delay, true
}

// Cancel requests whose key this program does not know may be meant for a session of another instance. They go to every
// server, so they are few.
const (
	broadcastsPerPrefix, broadcastsPerPrefixBurst = 2, 5
	broadcastsInAll, broadcastsInAllBurst         = 20, 40
)

// MayBroadcast takes leave to pass one CancelRequest with an unknown key to the servers.
func (g *Gate) MayBroadcast(addr netip.Addr) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.clock.now()
	_, ok := g.broadcasts.take(g.limits.prefix(addr), now, 0)
	return ok && g.broadcast.AllowN(now, 1) // in this order: one prefix cannot use up what is there for all
}
