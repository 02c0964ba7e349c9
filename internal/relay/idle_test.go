package relay_test

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/relay"
)

// untilIdle is an ending that waits for the session to be idle.
func untilIdle(text string) relay.Ending {
	e := now(text)
	e.Idle = true
	return e
}

// step is what one side sends and the other must receive: first request to the server, then answer to the client.
type step struct{ request, answer string }

// TestIdle asks for an end between the steps before and the steps after. All of them must pass, and the session end right
// behind the last one, without another byte from either side.
func TestIdle(t *testing.T) {
	batch := message('P', "\x00select 1\x00\x00\x00") + message('B', "\x00\x00\x00\x00\x00\x00\x00\x00") + message('E', "\x00\x00\x00\x00\x00")
	results := message('1', "") + message('2', "") + message('D', "\x00\x00") + message('C', "SELECT 1\x00")
	sync, flush := message('S', ""), message('H', "")
	function := message('F', "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	notice := message('N', "SNOTICE\x00C00000\x00Mwell\x00\x00")
	failure := message('E', "SERROR\x00C42601\x00Mwhat?\x00\x00")
	data := message('d', "1\n2\n")
	whole := step{query, answer}
	for name, script := range map[string]struct{ before, after []step }{
		"at start":                        {},
		"idle":                            {before: []step{whole}},
		"in a transaction":                {[]step{{query, ready("T")}}, []step{{query, ready("T")}, whole}},
		"in a failed transaction":         {[]step{{query, failure + ready("E")}}, []step{{query, ready("I")}}},
		"query under way":                 {[]step{{query, ""}}, []step{{"", answer}}},
		"query answered in part":          {[]step{{query, answer[:len(answer)-6]}}, []step{{"", ready("I")}}},
		"pipelined queries":               {[]step{{query + query + query, answer}}, []step{{"", answer}, {"", answer}}},
		"function call":                   {[]step{{function, ""}}, []step{{"", message('V', "\x00\x00\x00\x00") + ready("I")}}},
		"Sync under way":                  {[]step{{batch + sync, results}}, []step{{"", ready("I")}}},
		"batch without Sync":              {[]step{{batch + flush, results}}, []step{{sync, ready("I")}}},
		"Parse without Sync or answer":    {[]step{{message('P', "\x00\x00\x00\x00"), ""}}, []step{{"", notice}, {sync, message('1', "") + ready("I")}}},
		"batch begun while the first ran": {[]step{{query + batch, ""}}, []step{{"", answer}, {sync, results + ready("I")}}},
		"half a query":                    {[]step{{query[:7], ""}}, []step{{"", notice}, {query[7:], answer}}},
		"half a header":                   {[]step{{query[:2], ""}}, []step{{query[2:], answer}}},
		"half a notice":                   {[]step{{"", notice[:9]}}, []step{{"", notice[9:]}}},
		"ready but for a byte":            {[]step{{query, answer[:len(answer)-1]}}, []step{{"", "I"}}},
		"COPY":                            {[]step{{query, message('G', "\x00\x00\x00")}}, []step{{data, ""}, {data + message('c', ""), answer}}},
		// The server has given up and drops what the client was about to send: no answer will tell that it has come.
		"half a CopyData after the error": {[]step{{query, message('G', "\x00\x00\x00")}, {data[:7], failure + ready("I")}}, []step{{data[7:], ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			eachLegs(t, func(t *testing.T, r *rig) {
				r.start()
				want := relay.Result{Cause: relay.Ended, Notified: true}
				play := func(steps []step) {
					for _, s := range steps {
						r.pass(s.request, s.answer)
						want.ToServer += uint64(len(s.request))
						want.ToClient += uint64(len(s.answer))
					}
				}
				play(script.before)
				r.eventually("busy as long as something is under way", func() bool { return r.relay.Busy() == (len(script.after) > 0) })
				r.relay.End(untilIdle("idle"))
				play(script.after)
				r.client.expectEnd(fatal("idle"))
				_ = r.client.Close()
				if got, _ := r.server.rest(); got != terminate {
					t.Errorf("the server got %q at the end, want a Terminate", got)
				}
				r.wantResult(want)
			})
		})
	}
}

// TestIdleWithServerStuck waits for a server that does not read, though nothing more is asked of it: it has given up a COPY
// and is to drop the rest. Among the sizes are some of which the last bytes are in no socket yet, but with the relay.
func TestIdleWithServerStuck(t *testing.T) {
	for _, l := range fourLegs {
		t.Run(l.name, func(t *testing.T) {
			_, size := capacity(t, l.clientTLS, l.serverTLS)
			for range 12 {
				size -= 4 << 10
				data := message('d', string(make([]byte, size)))
				r := legs(t, l.clientTLS, l.serverTLS).start()
				if err := <-startFlood(r.client, []byte(data)).done; err != nil {
					t.Fatal(err)
				}
				r.server.write(ready("I"))
				r.client.expect(ready("I"))
				r.eventually("the COPY has come to the relay", func() bool { return r.relay.Stats().ToServer > 0 })
				r.relay.End(untilIdle("x"))
				r.server.expect(data)
				r.client.expectEnd(fatal("x"))
				_ = r.client.Close()
				r.server.expectTerminated() // the Terminate may find the socket full
				r.result()
			}
		})
	}
}

// TestIdleForced ends sessions that do not become idle: by the deadline, and by a later call.
func TestIdleForced(t *testing.T) {
	withDeadline := func(d time.Duration) relay.Ending {
		e := untilIdle("forced")
		e.Deadline = time.Now().Add(d)
		return e
	}
	for name, force := range map[string]func(*relay.Relay){
		"deadline":              func(r *relay.Relay) { r.End(withDeadline(20 * time.Millisecond)) },
		"deadline in the past":  func(r *relay.Relay) { r.End(withDeadline(-time.Hour)) },
		"now":                   func(r *relay.Relay) { r.End(untilIdle("waits")); r.End(now("forced")) },
		"now, before deadline":  func(r *relay.Relay) { r.End(withDeadline(time.Hour)); r.End(now("forced")) },
		"shorter deadline":      func(r *relay.Relay) { r.End(untilIdle("waits")); r.End(withDeadline(20 * time.Millisecond)) },
		"idle does not replace": func(r *relay.Relay) { r.End(now("forced")); r.End(untilIdle("late")) },
	} {
		t.Run(name, func(t *testing.T) {
			eachLegs(t, func(t *testing.T, r *rig) {
				begun := ready("T")
				r.start().pass(query, begun)
				force(r.relay)
				r.client.expectEnd(fatal("forced"))
				_ = r.client.Close()
				if got, err := r.server.rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the server got %q, %v, want a reset of the open transaction", got, err)
				}
				r.wantResult(relay.Result{
					Cause: relay.Ended, Notified: true, Interrupted: true,
					Stats: relay.Stats{ToServer: uint64(len(query)), ToClient: uint64(len(begun))},
				})
			})
		})
	}
}

// TestIdleReplaced tells the client the error of the later call. The earlier one's deadline is void.
func TestIdleReplaced(t *testing.T) {
	r := legs(t, false, false).start()
	r.pass(query, ready("T"))
	first := untilIdle("first")
	first.Deadline = time.Now().Add(time.Hour)
	r.relay.End(first)
	r.relay.End(untilIdle("second"))
	r.pass(query, answer)
	r.client.expectEnd(fatal("second"))
	_ = r.client.Close()
	if got := r.result(); got.Cause != relay.Ended || !got.Notified {
		t.Errorf("got %+v", got)
	}
}

// TestIdleOtherEnd closes sessions in the common ways while an ending waits.
func TestIdleOtherEnd(t *testing.T) {
	r := legs(t, false, false).start()
	r.pass(query, ready("T"))
	e := untilIdle("x")
	e.Deadline = time.Now().Add(time.Hour)
	r.relay.End(e)
	r.server.write(last)
	_ = r.server.Close()
	r.client.expectEnd(last)
	_ = r.client.Close()
	if got := r.result(); got.Cause != relay.ServerClosed || got.Notified {
		t.Errorf("got %+v", got)
	}
}

// TestIdleDuringTraffic asks for the end at any moment between queries and answers, and then sends nothing more: the end
// must come all the same. Every query that reached the server is answered, and the answer reaches the client.
func TestIdleDuringTraffic(t *testing.T) {
	rng := random(t)
	for i := range 200 {
		r := legs(t, i%10 == 1, i%10 == 2).start()
		type outcome struct {
			answered int
			rest     string
		}
		served := make(chan outcome, 1)
		go func() {
			answered, rest := serve(r.server)
			served <- outcome{answered, rest}
		}()
		queries, asked, split := rng.IntN(3), make(chan struct{}), rng.IntN(len(query))
		go func() {
			r.relay.End(untilIdle("x"))
			close(asked)
		}()
		for range queries { // may fail once the session has ended
			_, _ = io.WriteString(r.client, query[:split])
			_, _ = io.WriteString(r.client, query[split:])
		}
		got, err := r.client.rest()
		if err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		<-asked
		_ = r.client.Close()
		result, server := r.result(), <-served
		want := ""
		for range server.answered {
			want += answer
		}
		if got != want+fatal("x") {
			t.Fatalf("session %d: the server answered %d queries, but the client got %q", i, server.answered, got)
		}
		if server.rest != terminate {
			t.Fatalf("session %d: the server got %q at the end", i, server.rest)
		}
		if result.Cause != relay.Ended || !result.Notified || result.ToServer != uint64(server.answered*len(query)) {
			t.Fatalf("session %d: got %+v", i, result)
		}
	}
}
