package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/internal/events"
)

// serveTest serves a handler on loopback until the test ends.
func serveTest(t *testing.T, c Config) (address string) {
	t.Helper()
	defer func() { // runs last at the test's end
		t.Cleanup(func() { http.DefaultClient.CloseIdleConnections() })
	}()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, ln, Handler(c), nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return "http://" + ln.Addr().String()
}

// follow returns a reader of the events that a stream sends.
func follow(t *testing.T, address, lastID string) (next func() events.Event) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %d of type %q", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	lines := bufio.NewScanner(resp.Body)
	return func() events.Event {
		t.Helper()
		id := ""
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				id = value
			case "data":
				var e events.Event
				if err := json.Unmarshal([]byte(value), &e); err != nil || strconv.FormatUint(e.ID, 10) != id {
					t.Fatalf("event %s: %q, %v", id, value, err)
				}
				return e
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return events.Event{}
	}
}

// A client gets what is remembered, then what happens; one that reconnects what it has missed.
func TestStream(t *testing.T) {
	log := events.New()
	log.Add(events.Event{Text: "one"})
	address := serveTest(t, Config{Sources: Sources{Snapshots: snapshots()}, Events: log, Local: true}) + "/events"
	next := follow(t, address, "")
	first := next()
	if first.Text != "one" {
		t.Errorf("got %+v, want one", first)
	}
	log.Add(events.Event{Text: "two\nlines", Kind: events.Server})
	if got := next(); got.Text != "two\nlines" || got.Kind != events.Server {
		t.Errorf("got %+v", got)
	}
	log.Add(events.Event{Text: "three"})
	id := strconv.FormatUint(first.ID, 10)
	for name, again := range map[string]func() events.Event{
		"header": follow(t, address, id), "parameter": follow(t, address+"?since="+id, ""),
	} {
		if a, b := again(), again(); a.Text != "two\nlines" || b.Text != "three" {
			t.Errorf("by the %s: got %+v, %+v", name, a, b)
		}
	}
}

// However many ask, the streams are bounded, and a place is free again when its client leaves.
func TestStreamsAreBounded(t *testing.T) {
	log := events.New()
	log.Add(events.Event{Text: "one"})
	address := serveTest(t, Config{Sources: Sources{Snapshots: snapshots()}, Events: log, Local: true}) + "/events"
	ctx, leave := context.WithCancel(t.Context())
	for range mostStreams {
		r, err := http.NewRequestWithContext(ctx, "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("got %v, %v", resp, err)
		}
		defer func() { _ = resp.Body.Close() }()
	}
	get := func() int {
		r, err := http.NewRequestWithContext(t.Context(), "GET", address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if code := get(); code != http.StatusServiceUnavailable {
		t.Errorf("one more: got %d", code)
	}
	leave()
	for get() != 200 { // until the server has noticed
		if t.Context().Err() != nil {
			t.Fatal("no place became free")
		}
	}
}
