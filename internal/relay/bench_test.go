package relay_test

import (
	"io"
	"runtime"
	"strings"
	"testing"
)

// A prepared SELECT of pgbench has about these lengths.
var (
	smallQuery = message('B', strings.Repeat("q", 44)) + message('E', "\x00\x00\x00\x00\x00") + message('S', "")
	smallRow   = message('2', "") + message('D', strings.Repeat("r", 137)) + message('C', "SELECT 1\x00") + ready("I")
)

// echo answers each request until the connection ends.
func echo(p *peer, request, answer string) {
	got := make([]byte, len(request))
	said := []byte(answer)
	for {
		if _, err := io.ReadFull(p, got); err != nil {
			return
		}
		if _, err := p.Write(said); err != nil {
			return
		}
	}
}

// pingPong returns a function that sends a request and reads its answer, without an allocation of its own.
func pingPong(t testing.TB, r *rig, request, answer string) func() {
	go echo(r.server, request, answer)
	said, got := []byte(request), make([]byte, len(answer))
	return func() {
		if _, err := r.client.Write(said); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r.client, got); err != nil {
			t.Fatal(err)
		}
	}
}

func benchmarkLegs(b *testing.B, bench func(b *testing.B, r *rig)) {
	for _, l := range fourLegs {
		b.Run(l.name, func(b *testing.B) {
			r := legs(b, l.clientTLS, l.serverTLS).start()
			r.client.forever()
			r.server.forever()
			bench(b, r)
			b.StopTimer()
			r.close()
		})
	}
}

// BenchmarkRelaySmall is one query of 64 bytes and its answer of 167. The times and allocations are those of the peers too.
func BenchmarkRelaySmall(b *testing.B) {
	benchmarkLegs(b, func(b *testing.B, r *rig) {
		turn := pingPong(b, r, smallQuery, smallRow)
		turn()
		b.ReportAllocs()
		for b.Loop() {
			turn()
		}
	})
}

// BenchmarkRelayBulk is 64 KiB of a COPY to the client, in rows of 128 bytes.
func BenchmarkRelayBulk(b *testing.B) {
	benchmarkLegs(b, func(b *testing.B, r *rig) {
		piece := []byte(strings.Repeat(message('d', strings.Repeat("c", 123)), 512))
		go func() {
			for err := error(nil); err == nil; {
				_, err = r.server.Write(piece)
			}
		}()
		got := make([]byte, len(piece))
		b.SetBytes(int64(len(piece)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := io.ReadFull(r.client, got); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestNoAllocationPerMessage relays small messages one by one, and many in pieces that need the large buffers.
func TestNoAllocationPerMessage(t *testing.T) {
	for name, times := range map[string]int{"one by one": 1, "in bulk": 500} {
		t.Run(name, func(t *testing.T) {
			r := legs(t, false, false).start()
			turn := pingPong(t, r, strings.Repeat(smallQuery, times), strings.Repeat(smallRow, times))
			turn()
			messages := 7 * times // in a turn
			turns := 7000 / messages
			const rounds = 5
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before) // testing.AllocsPerRun takes all processors but one away, the loop's too
			for range rounds * turns {
				turn()
			}
			runtime.ReadMemStats(&after)
			got := float64(after.Mallocs-before.Mallocs) / rounds
			// That is what the whole process allocates: the runtime at work, and a pooled buffer after each collection (under
			// the race detector, which makes pools forgetful, more): a few for all these messages; one for every hundredth
			// would show.
			if limit := float64(turns*messages) / 100; got > limit {
				t.Errorf("got %v allocations for %d messages, want at most %v", got, turns*messages, limit)
			}
			r.close()
		})
	}
}
