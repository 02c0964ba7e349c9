package admin

import (
	"context"
	"sync"
	"time"
)

const (
	// historyStep is the time between two samples.
	historyStep = 2 * time.Second
	// historyKept is how many there are of a server: five minutes.
	historyKept = 150
)

// History keeps what the page draws: how each server was over the last minutes. Its methods may be called from anywhere.
type History struct {
	mu      sync.Mutex
	servers map[serverKey][]sample
}

type serverKey struct{ cluster, name string }

// sample is a server at one moment.
type sample struct {
	role string
	lag  float64 // in bytes; negative where it is not known
}

// Run takes samples of what status tells until ctx ends. Servers that are no longer told of are forgotten.
func (h *History) Run(ctx context.Context, status func() Status) {
	tick := time.NewTicker(historyStep)
	defer tick.Stop()
	for {
		h.add(status())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *History) add(st Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	servers := make(map[serverKey][]sample)
	for _, c := range st.Clusters {
		for _, s := range c.Servers {
			now := sample{role: s.Role, lag: -1}
			if s.LagBytes != nil {
				now.lag = float64(*s.LagBytes)
			}
			key := serverKey{c.Name, s.Name}
			kept := append(h.servers[key], now)
			servers[key] = kept[max(0, len(kept)-historyKept):]
		}
	}
	h.servers = servers
}

// of returns the samples of a server, the oldest first. A nil History has none.
func (h *History) of(cluster, name string) []sample {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]sample(nil), h.servers[serverKey{cluster, name}]...)
}
