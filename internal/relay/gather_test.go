//go:build linux && !relay_goroutines

package relay_test

import (
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/wire"
)

// gathered counts the sockets of this process that the kernel tells of only when much is there to read.
func gathered(t *testing.T) (n int) {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		fd, _ := strconv.Atoi(name.Name())
		if least, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT); err == nil && least > 1 {
			n++
		}
	}
	return n
}

// TestGathering sends much in one direction until it is gathered. The end of it, far less than a buffer, comes through without
// anything behind it, and what is sent afterwards is told of at once.
func TestGathering(t *testing.T) {
	const size = 32 << 10
	for _, receiver := range []string{"client", "server"} {
		t.Run("to "+receiver, func(t *testing.T) {
			eachLegs(t, func(t *testing.T, r *rig) {
				r.start()
				from, to := r.server, r.client
				if receiver == "server" {
					from, to = r.client, r.server
				}
				var stop atomic.Bool
				sent := make(chan uint64, 1)
				go func() {
					piece, last := []byte(message('d', string(make([]byte, size)))), []byte(message('c', ""))
					n := 0
					defer func() { sent <- uint64(n) }()
					for ended := false; !ended; {
						if ended = stop.Load(); ended {
							piece = last
						}
						m, err := from.Write(piece)
						if n += m; err != nil {
							t.Error(err)
							return
						}
					}
				}()
				arrived := make(chan error, 1)
				go func() {
					reader := wire.NewReader(to)
					m, err := reader.Next(size)
					for err == nil && m.Type != 'c' {
						m, err = reader.Next(size)
					}
					arrived <- err
				}()
				r.eventually("the stream is gathered", func() bool { return gathered(t) == 1 })
				stop.Store(true)
				if err := <-arrived; err != nil {
					t.Fatal(err)
				}
				r.eventually("nothing is gathered", func() bool { return gathered(t) == 0 })
				from.write(message('d', "x"))
				to.expect(message('d', "x"))
				want := relay.Result{Cause: relay.ClientClosed, Stats: relay.Stats{ToClient: <-sent + 6}}
				if receiver == "server" {
					want.Stats = relay.Stats{ToServer: want.Stats.ToClient}
				}
				r.client.closeWrite()
				r.server.expectEnd("")
				_ = r.server.Close()
				r.wantResult(want)
			})
		})
	}
}
