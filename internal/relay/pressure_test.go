package relay_test

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/relay"
)

// flood writes a stream from the background and counts what was accepted.
type flood struct {
	accepted atomic.Int64
	done     chan error
}

func startFlood(p *peer, stream []byte) *flood {
	f := &flood{done: make(chan error, 1)}
	go func() {
		var err error
		for len(stream) > 0 && err == nil {
			n := min(len(stream), 8<<10)
			_, err = p.Write(stream[:n])
			f.accepted.Add(int64(n))
			stream = stream[n:]
		}
		f.done <- err
	}()
	return f
}

// stall waits until nothing was accepted for a while. On a machine that makes that while too short the test sees less, but
// does not fail.
func (f *flood) stall(r *rig) {
	r.t.Helper()
	last, since := int64(-1), time.Now()
	r.eventually("writing stalls", func() bool {
		if now := f.accepted.Load(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond
	})
}

// TestBackPressure lets one peer not read: the other one's writes stall after what the sockets hold, and nothing is lost
// when reading begins. The other direction goes on in the meantime.
func TestBackPressure(t *testing.T) {
	const size, bound = 16 << 20, 2 << 20
	stream := []byte(message('d', string(make([]byte, size-5))))
	for i := range stream[5:] {
		stream[5+i] = byte(i * i >> 8)
	}
	for _, slow := range []string{"client", "server"} {
		t.Run("slow "+slow, func(t *testing.T) {
			eachLegs(t, func(t *testing.T, r *rig) {
				r.start()
				from, to := r.server, r.client
				want := relay.Result{Cause: relay.ClientClosed, Stats: relay.Stats{ToServer: 6, ToClient: size}}
				if slow == "server" {
					from, to = r.client, r.server
					want.Stats = relay.Stats{ToServer: size, ToClient: 6}
				}
				f := startFlood(from, stream)
				f.stall(r)
				if got := f.accepted.Load(); got > bound {
					t.Errorf("%d bytes were accepted with nobody reading, want at most %d", got, bound)
				}
				to.write(message('d', "x"))
				from.expect(message('d', "x"))
				got := make([]byte, size)
				if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, stream) {
					t.Fatalf("after the stall: %v, or other bytes than were sent", err)
				}
				if err := <-f.done; err != nil {
					t.Fatal(err)
				}
				r.client.closeWrite()
				r.server.expectEnd("")
				r.server.closeWrite()
				r.client.expectEnd("")
				r.wantResult(want)
			})
		})
	}
}

// TestStats reads the counts while they grow.
func TestStats(t *testing.T) {
	r := legs(t, false, false).start()
	query, answer := message('Q', "select 1\x00"), message('C', "SELECT 1\x00")+ready("I")
	const rounds = 500
	want := relay.Stats{ToServer: uint64(rounds * len(query)), ToClient: uint64(rounds * len(answer))}
	reader := make(chan bool)
	go func() {
		var last relay.Stats
		for ; last != want; time.Sleep(10 * time.Microsecond) { // leaves the processor to the session
			now := r.relay.Stats()
			if now.ToServer < last.ToServer || now.ToClient < last.ToClient || now.ToServer > want.ToServer || now.ToClient > want.ToClient {
				t.Errorf("got %+v after %+v", now, last)
				break
			}
			last = now
		}
		close(reader)
	}()
	for range rounds {
		r.pass(query, answer)
	}
	<-reader
	_ = r.client.Close()
	r.server.expectEnd("")
	_ = r.server.Close()
	r.wantResult(relay.Result{Cause: relay.ClientClosed, Stats: want})
}
