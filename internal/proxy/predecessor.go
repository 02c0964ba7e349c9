package proxy

import (
	"context"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// predecessors are the processes that this one has replaced, one after the other. They may still have sessions, whose cancel
// requests come here now. The zero value has none.
type predecessors struct {
	targets []backends.Target
	slots   chan struct{} // one for each request under way: strangers can send any number
}

// maxPassed bounds the cancel requests under way to predecessors; more are dropped.
const maxPassed = 64

// Replace says that there are predecessors: cancel requests that match no session are passed to their sockets at these paths,
// where the ServeCancel of each listens. One that has ended does no harm. Replace is called before Run.
func (s *Server) Replace(paths []string) {
	s.predecessors.slots = make(chan struct{}, maxPassed)
	for _, path := range paths {
		s.predecessors.targets = append(s.predecessors.targets, backends.Target{
			Name: "predecessor", Network: "unix", Address: path, SendProxyProtocol: true,
		})
	}
}

// taken is what a predecessor answers where a request was for one of its sessions, before it closes the connection.
var taken = []byte("C")

// pass passes a cancel request on and returns when it was dealt with: true where it was for a session of a predecessor.
func (p *predecessors) pass(ctx context.Context, client *tlsfront.Client) bool {
	select {
	case p.slots <- struct{}{}:
	default: // there is no predecessor, or too much to do
		return false
	}
	defer func() { <-p.slots }()
	ctx, done := context.WithDeadline(ctx, client.Deadline)
	defer done()
	for _, target := range p.targets {
		if said, _ := passCancel(ctx, target, client.Opening.Cancel, originOf(client)); said > 0 {
			return true
		}
	}
	return false
}

// ServeCancel is a tlsfront.Handler for what a successor passes on: cancel requests for sessions of this process, and nothing
// else.
func (s *Server) ServeCancel(ctx context.Context, client *tlsfront.Client) {
	defer func() { _ = client.Conn.Close() }()
	if client.Opening.Kind == wire.KindCancel && s.cancelHere(ctx, client) {
		_, _ = client.Conn.Write(taken)
	}
}
