package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/events"
)

const (
	// mostStreams bounds the clients that follow events.
	mostStreams = 64
	// keepalive is the longest silence of a stream, so that both sides notice when the other is gone.
	keepalive = 15 * time.Second
)

// stream serves events as "text/event-stream" (HTML standard, section 9.2).
type stream struct {
	events *events.Log
	places chan struct{}
}

func newStream(l *events.Log) *stream {
	return &stream{events: l, places: make(chan struct{}, mostStreams)}
}

// serve sends the events after the one that the client has heard of, by the header Last-Event-ID of a browser that
// reconnects, or by the parameter since; then every new one as it happens. Without either it begins with all that are
// remembered.
func (s *stream) serve(w http.ResponseWriter, r *http.Request) {
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		writeText(w, http.StatusServiceUnavailable, "too many clients follow the events\n")
		return
	}
	heard := r.Header.Get("Last-Event-ID")
	if heard == "" {
		heard = r.URL.Query().Get("since")
	}
	last, _ := strconv.ParseUint(heard, 10, 64)
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	tick := time.NewTicker(keepalive)
	defer tick.Stop()
	for {
		list, newer := s.events.Since(last)
		_ = out.SetWriteDeadline(time.Now().Add(keepalive))
		for _, e := range list {
			data, err := json.Marshal(e)
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(w, "id: %d\ndata: %s\n\n", e.ID, data); err != nil {
				return
			}
			last = e.ID
		}
		if len(list) == 0 {
			if _, err := fmt.Fprint(w, ":\n\n"); err != nil {
				return
			}
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-newer:
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
