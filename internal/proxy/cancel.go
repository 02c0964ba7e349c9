package proxy

import (
	"context"
	"crypto/subtle"
	"io"
	"log/slog"
	"sync"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// cancelTable knows which server the cancel key of each session belongs to. Keys pass through unchanged, so that the
// process id a client sees is the server's; two servers may use the same one. The zero value is empty and ready.
type cancelTable struct {
	mu      sync.Mutex
	entries map[uint32][]*cancelEntry // by process id
}

type cancelEntry struct {
	key    []byte
	target backends.Target
}

// add notes a key until the returned function is called, which may be done more than once.
func (t *cancelTable) add(c wire.Cancel, target backends.Target) (remove func()) {
	entry := &cancelEntry{key: c.Key, target: target}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil {
		t.entries = make(map[uint32][]*cancelEntry)
	}
	t.entries[c.ProcessID] = append(t.entries[c.ProcessID], entry)
	return func() { t.remove(c.ProcessID, entry) }
}

func (t *cancelTable) remove(pid uint32, entry *cancelEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.entries[pid][:0:0]
	for _, e := range t.entries[pid] {
		if e != entry {
			kept = append(kept, e)
		}
	}
	if len(kept) == 0 {
		delete(t.entries, pid)
		return
	}
	t.entries[pid] = kept
}

// find returns the server that a request is for. Keys are compared in constant time.
func (t *cancelTable) find(c wire.Cancel) (backends.Target, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries[c.ProcessID] {
		if subtle.ConstantTimeCompare(e.key, c.Key) == 1 {
			return e.target, true
		}
	}
	return backends.Target{}, false
}

// cancel passes a CancelRequest to the server of its session. The client's connection is closed only after the server has
// closed its own, for clients take that as the sign that the cancel was dealt with (src/interfaces/libpq/fe-cancel.c). A
// request that matches no session is dropped without a word, as a server does it, or passed on to all servers; see broadcast.
func (s *Server) cancel(ctx context.Context, client *tlsfront.Client) {
	defer func() { _ = client.Conn.Close() }()
	log := s.log.With("client", client.Address.String())
	switch {
	case s.cancelHere(ctx, client):
	case s.predecessors.pass(ctx, client):
		s.metrics.Cancelled("passed")
		log.Debug("cancel request passed to a predecessor")
	case s.broadcast(ctx, client):
		s.metrics.Cancelled("broadcast")
		log.Debug("cancel request passed to every server")
	default:
		s.metrics.Cancelled("unknown")
		log.Debug("cancel request matches no session")
	}
}

// cancelHere passes a CancelRequest to the server of its session, over TLS where the session's leg has it. It returns false
// where there is no such session.
func (s *Server) cancelHere(ctx context.Context, client *tlsfront.Client) bool {
	target, ok := s.cancels.find(client.Opening.Cancel)
	if !ok {
		return false
	}
	log := s.log.With("client", client.Address.String())
	ctx, done := context.WithDeadline(ctx, client.Deadline)
	defer done()
	if _, err := passCancel(ctx, target, client.Opening.Cancel, originOf(client)); err != nil {
		s.metrics.Cancelled("failed")
		level := s.gate.LogLevel(slog.LevelWarn, "cancel", client.IP())
		log.Log(ctx, level, "cancel request failed", "backend", target.Name, "err", err)
		return true
	}
	s.metrics.Cancelled("passed")
	log.LogAttrs(ctx, slog.LevelDebug, "query cancelled", slog.String("backend", target.Name))
	return true
}

// passCancel sends a CancelRequest and waits until it was dealt with. It returns how many bytes were answered: none by a server,
// which merely closes, with or without close_notify.
func passCancel(ctx context.Context, target backends.Target, c wire.Cancel, origin backends.Origin) (answered int64, err error) {
	conn, err := backends.Dial(ctx, target, origin)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return 0, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	packet, err := c.AppendBinary(nil)
	if err != nil {
		return 0, err
	}
	if _, err := conn.Write(packet); err != nil {
		return 0, err
	}
	answered, _ = io.Copy(io.Discard, io.LimitReader(conn, 1<<10)) // more is no answer to this
	return answered, nil
}
