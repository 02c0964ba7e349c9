package relay_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/wire"
)

// now is an ending that waits for nothing.
func now(text string) relay.Ending {
	return relay.Ending{Error: &wire.ErrorResponse{Code: wire.AdminShutdown, Message: text}}
}

// fatal is what the client is sent by now(text).
func fatal(text string) string {
	b, err := now(text).Error.AppendBinary(nil)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// expectTerminated reads how the server's session ended: by Terminate and a close, or by a close alone.
func (p *peer) expectTerminated() {
	p.t.Helper()
	if got, _ := p.rest(); got != "" && got != terminate {
		p.t.Errorf("the server got %.100q at the end, want at most a Terminate", got)
	}
}

// TestEndWhileIdle is the case of a failover: the client reads the error with its own decoder.
func TestEndWhileIdle(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().pass(query, answer)
		r.relay.End(now("the server is no longer the primary"))
		received, err := pgproto3.NewFrontend(r.client, nil).Receive()
		got, ok := received.(*pgproto3.ErrorResponse)
		if !ok || err != nil {
			t.Fatalf("got %+v, %v, want an ErrorResponse", received, err)
		}
		if got.Severity != "FATAL" || got.Code != "57P01" || got.Message != "the server is no longer the primary" {
			t.Errorf("got %+v", got)
		}
		r.client.expectEnd("")
		_ = r.client.Close()
		r.server.expectTerminated()
		r.wantResult(relay.Result{Cause: relay.Ended, Notified: true, Stats: passed})
	})
}

// rows is an endless reader of DataRows of all lengths up to 64 KiB, each with its number. What it returns at a time ends
// anywhere.
type rows struct {
	n    uint32
	left []byte
}

func (r *rows) Read(p []byte) (int, error) {
	for len(r.left) < len(p) {
		body := make([]byte, 4+r.n*7919%(64<<10))
		binary.BigEndian.PutUint32(body, r.n)
		r.left = wire.Message{Type: 'D', Body: body}.Append(r.left)
		r.n++
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// TestEndWhileBusy ends a session in the middle of a long result. The client gets whole rows, the error and nothing else;
// the server is cut off.
func TestEndWhileBusy(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().client.write(query)
		r.server.expect(query)
		written := make(chan error)
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{r.server}, &rows{}, make([]byte, 10_000))
			written <- err
		}()
		end := sync.OnceFunc(func() { r.relay.End(now("enough")) })
		reader := wire.NewReader(r.client)
		var count uint32
		var size uint64
		for {
			m, err := reader.Next(64 << 10)
			if err != nil {
				t.Fatalf("after %d rows: %v", count, err)
			}
			if m.Type != 'D' {
				if got := string(m.Append(nil)); got != fatal("enough") {
					t.Errorf("got %q behind the rows", got)
				}
				break
			}
			if got := binary.BigEndian.Uint32(m.Body); got != count {
				t.Fatalf("got row %d, want %d", got, count)
			}
			count++
			if size += uint64(5 + len(m.Body)); size > 1<<20 {
				end()
			}
		}
		r.client.expectEnd("")
		_ = r.client.Close()
		if err := <-written; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the server's writes ended with %v, want a reset", err)
		}
		r.wantResult(relay.Result{Cause: relay.Ended, Notified: true, Interrupted: true, Stats: relay.Stats{ToServer: uint64(len(query)), ToClient: size}})
	})
}

// TestEndWithinMessage ends a session whose server has sent half a row: no error may stand inside of it.
func TestEndWithinMessage(t *testing.T) {
	row := message('D', strings.Repeat("x", 1000))
	half, rest := row[:500], row[500:]
	t.Run("silent", func(t *testing.T) {
		eachLegs(t, func(t *testing.T, r *rig) {
			r.start().pass(query, half)
			r.relay.End(now("x"))
			if got, _ := r.client.rest(); got != "" {
				t.Errorf("got %q inside of a row", got)
			}
			r.server.expectTerminated()
			r.wantResult(relay.Result{Cause: relay.Ended, Interrupted: true, Stats: relay.Stats{ToServer: uint64(len(query)), ToClient: 500}})
		})
	})
	t.Run("completed", func(t *testing.T) {
		eachLegs(t, func(t *testing.T, r *rig) {
			r.start().pass(query, half)
			r.relay.End(now("x"))
			r.server.write(rest)
			r.client.expectEnd(rest + fatal("x"))
			_ = r.client.Close()
			r.wantResult(relay.Result{
				Cause: relay.Ended, Notified: true, Interrupted: true,
				Stats: relay.Stats{ToServer: uint64(len(query)), ToClient: uint64(len(row))},
			})
		})
	})
}

// TestEndWithClientStuck ends sessions of clients that read nothing, within a message: there is no place for the error.
func TestEndWithClientStuck(t *testing.T) {
	stream := message('D', string(make([]byte, 8<<20)))
	eachLegs(t, func(t *testing.T, r *rig) {
		endStuck(t, r, stream)
		if got := r.result(); got.Cause != relay.Ended || got.Err != nil || got.Notified {
			t.Errorf("got %+v", got)
		}
		if got, _ := r.client.rest(); !strings.HasPrefix(stream, got) {
			t.Error("the client got something else than the server's bytes")
		}
	})
}

// TestEndWithClientStuckInRows is the same with short messages. Where the bytes stop between two of them, the error may still
// get into the socket.
func TestEndWithClientStuckInRows(t *testing.T) {
	stream, err := io.ReadAll(io.LimitReader(&rows{}, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	r := legs(t, false, false)
	endStuck(t, r, string(stream))
	result := r.result()
	got, _ := r.client.rest()
	whole := string(stream[:result.ToClient])
	switch boundary, _ := new(wire.Walker).Walk([]byte(whole)); {
	case result.Cause != relay.Ended || result.Err != nil:
		t.Errorf("got %+v", result)
	case result.Notified && (got != whole+fatal("x") || boundary != len(whole)):
		t.Errorf("got %d bytes, want %d and the error behind whole rows", len(got), len(whole))
	case !result.Notified && !strings.HasPrefix(string(stream), got) && !strings.HasPrefix(whole+fatal("x"), got):
		t.Error("the client got something else than the server's bytes")
	}
}

// endStuck lets the server send more than the client's socket takes, and ends the session.
func endStuck(t *testing.T, r *rig, stream string) {
	t.Helper()
	f := startFlood(r.start().server, []byte(stream))
	f.stall(r)
	r.relay.End(now("x"))
	if err := <-f.done; err == nil {
		t.Error("the server could write all of its answer")
	}
}

// TestEndWithServerStuck ends sessions of servers that read nothing.
func TestEndWithServerStuck(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		f := startFlood(r.start().client, []byte(message('d', string(make([]byte, 8<<20)))))
		f.stall(r)
		r.relay.End(now("x"))
		r.client.expectEnd(fatal("x"))
		_ = r.client.raw.Close()
		<-f.done
		if got := r.result(); got.Cause != relay.Ended || !got.Notified {
			t.Errorf("got %+v", got)
		}
	})
}

// TestEndAtOnce ends sessions before their first byte.
func TestEndAtOnce(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.config.Client.Pending = []byte(query)
		r.start().relay.End(now("x"))
		r.client.expectEnd(fatal("x"))
		_ = r.client.Close()
		if got, _ := r.server.rest(); !strings.HasPrefix(query+terminate, got) && got != terminate {
			t.Errorf("the server got %q", got)
		}
		if got := r.result(); got.Cause != relay.Ended || !got.Notified || got.ToClient != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestEndWithoutError only closes.
func TestEndWithoutError(t *testing.T) {
	r := legs(t, true, true).start()
	r.pass(query, answer)
	r.relay.End(relay.Ending{})
	r.client.expectEnd("")
	_ = r.client.Close()
	r.server.expectTerminated()
	r.wantResult(relay.Result{Cause: relay.Ended, Stats: passed})
}

// TestEndTwice keeps to the first ending, and has nothing to do after the end.
func TestEndTwice(t *testing.T) {
	r := legs(t, false, false).start()
	r.relay.End(now("first"))
	r.relay.End(now("second"))
	r.client.expectEnd(fatal("first"))
	_ = r.client.Close()
	r.wantResult(relay.Result{Cause: relay.Ended, Notified: true})
	r.relay.End(now("third"))
	r.relay.End(untilIdle("fourth"))
}

// TestEndAfterEnd ends a session that is over.
func TestEndAfterEnd(t *testing.T) {
	r := legs(t, false, false).start()
	_ = r.client.Close()
	r.server.expectEnd("")
	_ = r.server.Close()
	r.wantResult(relay.Result{Cause: relay.ClientClosed})
	r.relay.End(untilIdle("x"))
	r.relay.End(now("x"))
}

// TestEndDuringTraffic ends sessions from many goroutines at once while queries and answers pass. The client closes as soon
// as it has the error; that must not be taken for the reason.
func TestEndDuringTraffic(t *testing.T) {
	for i := range 50 {
		combination := []bool{i%2 > 0, i%4 > 1}
		r := legs(t, combination[0], combination[1]).start()
		go serve(r.server)
		var enders sync.WaitGroup
		reader := wire.NewReader(r.client)
		for round := 0; ; round++ {
			if round == i%7 {
				for n := range 4 {
					enders.Go(func() { r.relay.End(now(fmt.Sprint("ender ", n))) })
				}
			}
			_, _ = io.WriteString(r.client, query) // fails at the end
			m, err := reader.Next(1000)
			for err == nil && m.Type != 'Z' && m.Type != wire.TypeErrorResponse {
				m, err = reader.Next(1000)
			}
			if err != nil {
				t.Fatalf("session %d: %v before the error", i, err)
			}
			if m.Type == wire.TypeErrorResponse {
				break
			}
		}
		_ = r.client.raw.Close()
		enders.Wait()
		if got := r.result(); got.Cause != relay.Ended || !got.Notified || got.Err != nil {
			t.Fatalf("session %d: got %+v", i, got)
		}
	}
}

// serve answers queries until the connection ends. It returns how many, and what came last instead of one.
func serve(p *peer) (answered int, rest string) {
	got := make([]byte, len(query))
	for {
		n, err := io.ReadFull(p, got)
		if err != nil || string(got) != query {
			more, _ := io.ReadAll(p)
			return answered, string(got[:n]) + string(more)
		}
		answered++
		_, _ = io.WriteString(p, answer)
	}
}

// The session is done with its server while its client still has it open.
func TestDetached(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().pass(query, answer)
		if r.relay.Detached() {
			t.Error("detached while it runs")
		}
		r.relay.End(now("the server is no longer the primary"))
		r.eventually("the session is detached", r.relay.Detached)
		r.server.expectTerminated()
		r.client.expectEnd(fatal("the server is no longer the primary"))
		_ = r.client.Close()
		r.wantResult(relay.Result{Cause: relay.Ended, Notified: true, Stats: passed})
	})
}
