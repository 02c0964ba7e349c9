package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/events"
)

// The page tells all of it, as text: what stands in a message is no markup.
func TestPage(t *testing.T) {
	log := events.New()
	log.Add(events.Event{Level: events.Error, Text: "db1 is down: <script>alert(1)</script>"})
	history := &History{}
	sources := full()
	history.add(sources.Status())
	w := answer(Config{Sources: sources, Events: log, History: history, Local: true}, request("GET", "/"))
	page := w.Body.String()
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("got %d %q: %s", w.Code, w.Header(), page)
	}
	for _, want := range []string{
		"disk full", "lagging", "5.0 MB, 1 s", "passed over", "the newest timeline", "db2 is primary, 1 replica, 1 server out, 2 sessions, 2 clients waiting", "10.0.0.12:5432", "connection refused",
		"out of service", "db.example.com", "&lt;no answer&gt;", "not obtained yet",
		"&lt;script&gt;alert(1)&lt;/script&gt;", `aria-label="last 5 minutes: primary"`, `<html lang="en">`, `aria-live="polite"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	for _, no := range []string{"<script>alert", "http://", "https://", "style="} {
		if strings.Contains(page, no) {
			t.Errorf("%q in the page", no)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestGraph(t *testing.T) {
	var samples []sample
	for range 10 {
		samples = append(samples, sample{"replica", 1 << 20})
	}
	samples = append(samples, sample{"unknown", -1}, sample{"primary", -1}, sample{"replica", 0}, sample{"replica", 0})
	g := newGraph(samples)
	if want := "last 5 minutes: replica, then unknown, then primary, then replica; lag 0 B, at most 1.0 MB"; g.Text != want {
		t.Errorf("says %q, want %q", g.Text, want)
	}
	if len(g.Roles) != 4 || g.Roles[0] != (stretch{"replica", historyKept - 14, 10}) || g.Roles[3].X+g.Roles[3].Width != historyKept {
		t.Errorf("roles are %+v", g.Roles)
	}
	if len(g.Curves) != 2 || !strings.HasPrefix(g.Curves[0].Line, "136,2.0 137,2.0") || g.Curves[1].Line != "148,23.0 149,23.0" {
		t.Errorf("curves are %+v, want one along the top from 136 on, and after a gap one along the foot", g.Curves)
	}
	if g := newGraph([]sample{{"replica", 0}, {"replica", 8 << 10}}); g.Text != "last 5 minutes: replica; lag 8.0 kB, at most 8.0 kB" {
		t.Errorf("says %q", g.Text)
	}
	if g := newGraph(nil); g.Text != "no history yet" || len(g.Curves) > 0 {
		t.Errorf("of nothing: %+v", g)
	}
}

// However long it runs, a history keeps a few minutes of the servers that there are.
func TestHistoryIsBounded(t *testing.T) {
	h := &History{}
	lag := uint64(0)
	for range 3 * historyKept {
		h.add(Status{Clusters: []Cluster{{Name: "main", Servers: []Server{{Name: "db1"}, {Name: "db2", LagBytes: &lag}}}}})
		lag++
	}
	list := h.of("main", "db2")
	if len(list) != historyKept || list[historyKept-1].lag != 3*historyKept-1 {
		t.Errorf("keeps %d, the last %v", len(list), list[len(list)-1])
	}
	h.add(Status{Clusters: []Cluster{{Name: "main", Servers: []Server{{Name: "db1"}}}}})
	if list := h.of("main", "db2"); len(list) > 0 || len(h.servers) != 1 {
		t.Errorf("keeps %d samples of a server that is gone", len(list))
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[float64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 17 << 10: "17 kB", 5 << 20: "5.0 MB", 3 << 40: "3.0 TB"} {
		if got := ByteSize(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 59 * time.Second: "59 s", 90 * time.Second: "1 min", 47 * time.Hour: "47 h", 49 * time.Hour: "2 days",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}
