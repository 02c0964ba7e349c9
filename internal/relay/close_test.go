package relay_test

import (
	"io"
	"syscall"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/relay"
)

var (
	query     = message('Q', "select 1\x00")
	answer    = message('D', "\x00\x01\x00\x00\x00\x011") + message('C', "SELECT 1\x00") + ready("I")
	terminate = message('X', "")
	last      = message('E', "SFATAL\x00C57P01\x00Mterminating connection due to administrator command\x00\x00")
	// passed counts one query and its answer.
	passed = relay.Stats{ToServer: uint64(len(query)), ToClient: uint64(len(answer))}
)

// TestClientCloses closes the client's side in the ways that are an ordinary end.
func TestClientCloses(t *testing.T) {
	for name, end := range map[string]func(*peer){
		"sending half":         func(p *peer) { p.closeWrite() },
		"Terminate":            func(p *peer) { p.write(terminate); _ = p.Close() },
		"no Terminate":         func(p *peer) { _ = p.Close() },
		"without close_notify": func(p *peer) { p.write(terminate); _ = p.raw.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			eachLegs(t, func(t *testing.T, r *rig) {
				r.start().pass(query, answer)
				end(r.client)
				got, err := r.server.rest()
				if (got != "" && got != terminate) || err != nil {
					t.Errorf("the server got %q, %v at the end", got, err)
				}
				_ = r.server.Close()
				want := relay.Result{Cause: relay.ClientClosed, Stats: passed}
				want.ToServer += uint64(len(got))
				r.wantResult(want)
			})
		})
	}
}

// TestTerminate lets the server close first, as the client has asked it to.
func TestTerminate(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().pass(query, answer)
		r.client.write(terminate)
		r.server.expect(terminate)
		_ = r.server.Close()
		r.client.expectEnd("")
		_ = r.client.Close()
		want := relay.Result{Cause: relay.ClientClosed, Stats: passed}
		want.ToServer += uint64(len(terminate))
		r.wantResult(want)
	})
}

// TestClientFollows lets the client close first, as many drivers do at an error that ends the session.
func TestClientFollows(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.dying = true
		r.start().pass(query, answer)
		r.server.write(last)
		r.client.expect(last)
		_ = r.client.Close()
		if got, err := r.server.rest(); got != "" || err != nil {
			t.Errorf("the server got %q, %v at the end", got, err)
		}
		_ = r.server.Close()
		want := relay.Result{Cause: relay.ClientClosed, Stats: passed}
		want.ToClient += uint64(len(last))
		r.wantResult(want)
	})
}

// TestAnswerAfterHalfClose sends an answer to a client that has ended its own side.
func TestAnswerAfterHalfClose(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().client.write(query)
		r.client.closeWrite()
		r.server.expectEnd(query)
		r.server.write(answer)
		r.server.closeWrite()
		r.client.expectEnd(answer)
		r.wantResult(relay.Result{Cause: relay.ClientClosed, Stats: passed})
	})
}

// chatter lets the client send on and on. The returned function stops it and returns how much was accepted.
func chatter(p *peer) (stop func() uint64) {
	quit, sent := make(chan struct{}), make(chan uint64)
	go func() {
		var n uint64
		for piece := message('d', "more and more"); ; n += uint64(len(piece)) {
			select {
			case <-quit:
				sent <- n
				return
			default:
			}
			if _, err := io.WriteString(p, piece); err != nil {
				<-quit
				sent <- n
				return
			}
		}
	}()
	return func() uint64 { close(quit); return <-sent }
}

// TestServerCloses lets the server say something last and close, while the client sends on: the client must be able to
// read it, and then the clean end of the connection.
func TestServerCloses(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start()
		stop := chatter(r.client)
		r.server.expect(message('d', "more and more"))
		r.server.write(last)
		r.server.closeWrite()
		go io.Copy(io.Discard, r.server) //nolint:errcheck // ends with the connection
		r.client.expectEnd(last)
		sent := stop()
		_ = r.client.Close()
		result := r.result()
		if result.Cause != relay.ServerClosed || result.Err != nil || result.Notified || result.ToClient != uint64(len(last)) {
			t.Errorf("got %+v", result)
		}
		if result.ToServer == 0 || result.ToServer > sent {
			t.Errorf("got %d bytes to the server, want at most the %d that were sent", result.ToServer, sent)
		}
	})
}

// TestServerExits is TestServerCloses with a server that leaves the client's bytes unread, as one does that exits, so that
// its kernel resets the connection behind the last message.
func TestServerExits(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start()
		stop := chatter(r.client)
		r.server.expect(message('d', "more and more"))
		r.server.write(last)
		_ = r.server.Close()
		r.client.expectEnd(last)
		stop()
		_ = r.client.Close()
		result := r.result()
		if (result.Cause != relay.ServerClosed && result.Cause != relay.ServerFailed) || result.ToClient != uint64(len(last)) {
			t.Errorf("got %+v", result)
		}
	})
}

func TestServerResets(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().pass(query, answer)
		r.server.reset()
		r.client.expectEnd("")
		_ = r.client.Close()
		r.wantResult(relay.Result{Cause: relay.ServerFailed, Err: syscall.ECONNRESET, Stats: passed})
	})
}

func TestClientResets(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start().pass(query, answer)
		r.client.reset()
		if got, _ := r.server.rest(); got != "" {
			t.Errorf("the server got %q", got)
		}
		r.wantResult(relay.Result{Cause: relay.ClientFailed, Err: syscall.ECONNRESET, Stats: passed})
	})
}

// TestClientVanishes resets a client that does not read, in the middle of a long answer. The kernel tells of a reset once,
// to who reads or to who writes; the other one sees an end of file. So both causes are true.
func TestClientVanishes(t *testing.T) {
	eachLegs(t, func(t *testing.T, r *rig) {
		f := startFlood(r.start().server, []byte(message('d', string(make([]byte, 8<<20)))))
		f.stall(r)
		r.client.reset()
		if err := <-f.done; err == nil {
			t.Error("the server could write all of its answer")
		}
		got := r.result()
		if got.Cause != relay.ClientClosed && (got.Cause != relay.ClientFailed || got.Err == nil) {
			t.Errorf("got %+v", got)
		}
	})
}
