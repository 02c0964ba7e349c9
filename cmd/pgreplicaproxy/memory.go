package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// keeper decides when garbage is collected. An idle session needs little, and a login leaves much behind: what saves memory
// where sessions are idle (collect early) costs a tenth of the CPU of logins. So the heap may grow by half, or by roomForLogins
// where that is more, and once little happens what it has grown by is collected and given back.
type keeper struct {
	allocated uint64 // bytes since the start, when looked at last
	returned  uint64 // the same, when memory was given back last
}

const (
	// roomForLogins is how many bytes of garbage may lie about: some hundred logins of it.
	roomForLogins = 16 << 20
	// calmRate is how many bytes are allocated in a second in which little happens.
	calmRate = 1 << 20
	// maxPercent is where Go's own least heap, of 4 MiB at 100 percent, is roomForLogins.
	maxPercent = 400
)

// keepMemory does the keeper's work until ctx ends, unless GOGC says what to do.
func keepMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	var k keeper
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		percent, giveBack := k.look(heap())
		debug.SetGCPercent(percent)
		if giveBack {
			debug.FreeOSMemory()
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// look is told once a second how many bytes of the heap were in use after the last collection, and how many were allocated
// since the start. It returns by how many percent the heap may grow, and whether now is the time to give memory back.
func (k *keeper) look(live, allocated uint64) (percent int, giveBack bool) {
	room := max(live/2, roomForLogins)
	giveBack = allocated-k.allocated < calmRate && allocated-k.returned > room
	k.allocated = allocated
	if giveBack {
		k.returned = allocated
	}
	return int(min(100*room/max(live, 1), maxPercent)), giveBack
}

// heap reads what look wants from the runtime's own counts.
func heap() (live, allocated uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}
