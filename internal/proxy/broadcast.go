package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

const (
	// broadcastTimeout bounds the wait for the servers, and broadcastsPerServer what one of them gets at a time.
	broadcastTimeout    = 5 * time.Second
	broadcastsPerServer = 2
)

// broadcasts counts the requests on their way to each server. The zero value is ready.
type broadcasts struct {
	mu    sync.Mutex
	onWay map[string]int
}

func (b *broadcasts) begin(server string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.onWay == nil {
		b.onWay = make(map[string]int)
	}
	if b.onWay[server] >= broadcastsPerServer {
		return false
	}
	b.onWay[server]++
	return true
}

func (b *broadcasts) end(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.onWay[server]--; b.onWay[server] == 0 {
		delete(b.onWay, server)
	}
}

// broadcast passes a CancelRequest that matches no session here to the servers of the clusters that want it so: behind one
// address there may be several instances, and the session may be another one's. A key is a secret of one server, so those
// that do not know it take no notice. Each server gets one packet for one that came, and only as many come through as
// package admission allows. It reports whether any server got it.
func (s *Server) broadcast(ctx context.Context, client *tlsfront.Client) bool {
	targets := s.broadcastTargets(len(client.Opening.Cancel.Key))
	if len(targets) == 0 || !s.gate.MayBroadcast(client.IP()) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, broadcastTimeout)
	defer cancel()
	var sent sync.WaitGroup
	for _, target := range targets {
		server := target.Cluster + "/" + target.Name
		if !s.broadcasts.begin(server) {
			continue
		}
		sent.Go(func() {
			defer s.broadcasts.end(server)
			if _, err := passCancel(ctx, target, client.Opening.Cancel, originOf(client)); err != nil {
				s.log.LogAttrs(ctx, slog.LevelDebug, "cancel request not passed on", slog.String("backend", target.Name), slog.Any("err", err))
			}
		})
	}
	sent.Wait()
	return true
}

// broadcastTargets are the servers that could have made a key of this length: 4 bytes, and 32 since PostgreSQL 18
// (src/include/libpq/pqcomm.h). Servers that do not answer the monitor are left out.
func (s *Server) broadcastTargets(keyLength int) []backends.Target {
	var targets []backends.Target
	for _, c := range s.settings.Load().clusters {
		if !c.BroadcastCancels {
			continue
		}
		for _, st := range c.monitor.Snapshot().States {
			if st.Role != policy.Unknown && (keyLength == shortKey || keyLength == longKey && st.MajorVersion() >= 18) {
				targets = append(targets, st.Target)
			}
		}
	}
	return targets
}

// Lengths of the keys that PostgreSQL makes.
const (
	shortKey = 4
	longKey  = 32
)
