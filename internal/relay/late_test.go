package relay_test

import (
	"testing"
	"time"
)

// TestLateClient lets the last answer of a session just fill the client's socket and more, and then the session end, by the
// server's close or because it is idle. The client begins to read only after a while in which nothing may have been given
// up: it gets all of the answer.
func TestLateClient(t *testing.T) {
	ends := map[string]func(*rig){
		"server closes": func(r *rig) { r.server.closeWrite() },
		"idle":          func(r *rig) { r.relay.End(untilIdle("x")) },
	}
	type session struct {
		*rig
		name, answer string
	}
	var sessions []session
	for _, clientTLS := range []bool{false, true} {
		size, _ := capacity(t, clientTLS, false)
		size -= 100
		for name := range ends {
			sessions = append(sessions, session{
				legs(t, clientTLS, false), name, message('D', string(make([]byte, size-11))) + ready("I"),
			})
		}
	}
	for _, s := range sessions {
		f := startFlood(s.start().server, []byte(s.answer))
		if err := <-f.done; err != nil {
			t.Fatal(err)
		}
		ends[s.name](s.rig)
	}
	time.Sleep(3 * time.Second) // longer than a relay waits for a client to say goodbye
	for _, s := range sessions {
		got, _ := s.client.rest()
		_ = s.client.Close()
		if whole := got == s.answer || s.name == "idle" && got == s.answer+fatal("x"); !whole {
			t.Errorf("%s: got %d bytes, want %d", s.name, len(got), len(s.answer))
		}
		s.result()
	}
}

// TestEndWithClientLate ends a session whose server is gone, while the end of the answer waits for a client that reads
// nothing.
func TestEndWithClientLate(t *testing.T) {
	size, _ := capacity(t, false, false)
	r := legs(t, false, false).start()
	if err := <-startFlood(r.server, []byte(message('D', string(make([]byte, size-100))))).done; err != nil {
		t.Fatal(err)
	}
	r.server.reset()
	r.relay.End(now("x"))
	r.result()
}

// capacity measures how much is relayed to peers that do not read.
func capacity(t *testing.T, clientTLS, serverTLS bool) (toClient, toServer uint64) {
	t.Helper()
	r := legs(t, clientTLS, serverTLS).start()
	long := []byte(message('d', string(make([]byte, 8<<20))))
	down, up := startFlood(r.server, long), startFlood(r.client, long)
	down.stall(r)
	up.stall(r)
	relayed := r.relay.Stats()
	_ = r.client.raw.Close()
	_ = r.server.raw.Close()
	_, _, _ = <-down.done, <-up.done, r.result()
	return relayed.ToClient, relayed.ToServer
}
