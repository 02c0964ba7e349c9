package admission

import (
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

// Lines of the log about those who were refused: without a bound, strangers could fill a disk with them. Each kind has its own,
// so that many of one do not hide the others, and no prefix can use up a kind.
const (
	linesPerPrefix, linesPerPrefixBurst = 0.1, 20 // per second, of one kind
	linesPerKind, linesPerKindBurst     = 1, 100
)

// lines bounds the lines of each kind.
type lines struct {
	prefixes buckets[kindOfPrefix]
	kinds    map[string]*kind
}

type kindOfPrefix struct {
	kind   string
	prefix netip.Prefix
}

type kind struct {
	bucket   *bucket
	unlogged int
}

func newLines() lines {
	return lines{newBuckets[kindOfPrefix](linesPerPrefix, linesPerPrefixBurst), make(map[string]*kind)}
}

// take takes leave for one line. The zero prefix has no bound of its own.
func (l *lines) take(name string, prefix netip.Prefix, now time.Time) bool {
	k, ok := l.kinds[name]
	if !ok {
		k = &kind{bucket: rate.NewLimiter(linesPerKind, linesPerKindBurst)}
		l.kinds[name] = k
	}
	mine := true
	if prefix.IsValid() {
		_, mine = l.prefixes.take(kindOfPrefix{name, prefix}, now, 0)
	}
	if mine && k.bucket.AllowN(now, 1) {
		return true
	}
	k.unlogged++
	return false
}

// MayLog takes leave to write one line of the log about somebody at addr who was refused before the login was complete. What it
// is false for is counted for Unlogged. Kinds are words of a closed list: each is remembered for good.
func (g *Gate) MayLog(kind string, addr netip.Addr) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lines.take(kind, g.limits.prefix(addr), g.clock.now())
}

// LogLevel is the level of a line that MayLog is asked for: the usual one, or Debug beyond the bound.
func (g *Gate) LogLevel(usual slog.Level, kind string, addr netip.Addr) slog.Level {
	if g.MayLog(kind, addr) {
		return usual
	}
	return slog.LevelDebug
}

// Unlogged returns, by kind, for how many lines MayLog was false since Unlogged was asked last. Kinds without any are left out.
func (g *Gate) Unlogged() map[string]int {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make(map[string]int)
	for name, k := range g.lines.kinds {
		if k.unlogged > 0 {
			list[name], k.unlogged = k.unlogged, 0
		}
	}
	return list
}
