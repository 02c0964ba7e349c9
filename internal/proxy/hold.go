package proxy

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// waitingRoom counts the sessions of a cluster that wait for a server. The zero value is empty.
type waitingRoom struct {
	mu        sync.Mutex
	total     int
	byAddress map[netip.Addr]int
	outcomes  map[HoldOutcome]uint64
}

// HoldOutcome is how a session's wait for a server ended.
type HoldOutcome string

// The outcomes.
const (
	HoldServed  HoldOutcome = "served"      // a server was found, or is to be tried again
	HoldExpired HoldOutcome = "expired"     // the time was over
	HoldCrowded HoldOutcome = "crowded"     // too many were waiting already
	HoldGone    HoldOutcome = "client_gone" // the client closed its connection
	HoldEnded   HoldOutcome = "ended"       // the program wanted the session to end, or stops
)

// enter takes a place among at most so many. No address may have more than are left for all others, so that one client cannot
// take them all.
func (w *waitingRoom) enter(address netip.Addr, most int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byAddress == nil {
		w.byAddress, w.outcomes = make(map[netip.Addr]int), make(map[HoldOutcome]uint64)
	}
	if w.byAddress[address] >= most-w.total {
		w.outcomes[HoldCrowded]++
		return false
	}
	w.byAddress[address]++
	w.total++
	return true
}

func (w *waitingRoom) leave(address netip.Addr, outcome HoldOutcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outcomes[outcome]++
	w.total--
	if w.byAddress[address]--; w.byAddress[address] == 0 {
		delete(w.byAddress, address)
	}
}

func (w *waitingRoom) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// ended returns how many waits have ended, by their outcomes.
func (w *waitingRoom) ended() map[HoldOutcome]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.outcomes)
}

// Waiting returns how many sessions wait for a server of a cluster.
func (s *Server) Waiting(cluster string) int {
	if c := s.settings.Load().clusters[cluster]; c != nil {
		return c.waiting.size()
	}
	return 0
}

// patience is how much longer the session may be held; zero or less is not at all.
func (s *session) patience() time.Duration {
	limit := s.cluster.Placement.HoldPrimary
	if s.decision.Target == policy.TargetReplica {
		limit = s.cluster.Placement.HoldReplica
	}
	return limit - s.held
}

// errOver ends a wait whose time is over.
var errOver = errors.New("no server in time")

// hold keeps the session waiting until a decision serves it, and takes that decision: it is driven by what the monitor finds out,
// and with a rest above zero, for a session whose servers have failed, it looks again after that time at the latest. The time
// counts neither for login_timeout nor for any other; patience bounds it. A client that goes away ends the wait.
func (s *session) hold(ctx context.Context, rest time.Duration) error {
	if s.patience() <= 0 {
		return s.unheld()
	}
	room, address := &s.cluster.waiting, s.request.Address
	if !room.enter(address, s.cluster.Placement.MaxWaiting) {
		return errCrowded(s.decision)
	}
	s.moveTo("")
	began := time.Now()
	watch, err := s.watchClient()
	if err == nil {
		err = s.await(ctx, watch, rest)
		s.held += time.Since(began)
		err = errors.Join(s.unwatchClient(watch, time.Since(began)), err)
	}
	room.leave(address, outcomeOf(err))
	if errors.Is(err, errOver) {
		return s.unheld()
	}
	return err
}

// await is the wait itself. It returns nil once the decision serves the session.
func (s *session) await(ctx context.Context, w watch, rest time.Duration) error {
	expired := time.NewTimer(s.patience())
	defer expired.Stop()
	var rested <-chan time.Time
	if rest > 0 {
		timer := time.NewTimer(rest)
		defer timer.Stop()
		rested = timer.C
	}
	known, own := s.cluster.known().Changed(), s.cluster.standings.changed()
	replaced := (<-chan struct{})(s.settings.replaced)
	if rest == 0 { // something may have changed since the decision that there is none
		s.decide()
	}
	for s.decision.Verdict == policy.Wait || rest > 0 {
		select {
		case <-known:
		case <-own:
		case <-replaced:
			replaced = s.goOver()
		case <-rested:
		case <-expired.C:
			return errOver
		case <-w.gone:
			return errClientGone
		case <-s.server.leaving:
			return errLeaving
		case <-ctx.Done():
			return refuse(ReasonEnded, errShutdown)
		}
		if err := s.stagger(ctx, w); err != nil {
			return err
		}
		rest = 0
		known, own = s.cluster.known().Changed(), s.cluster.standings.changed()
		s.decide()
	}
	return nil
}

// goOver lets a session that waits be placed by the configuration of now, unless that would end its login: it goes on then by the
// one that it began with. The channel is closed when there is a newer one.
func (s *session) goOver() (replaced <-chan struct{}) {
	now := s.server.settings.Load()
	next, before := now.clusters[now.routes.Cluster(s.request)], s.cluster
	switch {
	case next == nil, !now.routes.Enter(s.request).Allowed:
	case before.Passthrough != nil && (next.upkeep != before.upkeep || next.Passthrough == nil): // the client may have been asked already
	case next.Passthrough != nil && before.Passthrough == nil:
	default:
		s.settings = now
	}
	return now.replaced
}

// mostStagger bounds what stagger adds to a wait.
const mostStagger = 500 * time.Millisecond

// stagger keeps all who wait from rushing to a server that has just come: each waits for a moment of its own, drawn from as many
// milliseconds as more are waiting than may dial at once.
func (s *session) stagger(ctx context.Context, w watch) error {
	most := s.cluster.Placement.MaxDials
	surplus := s.cluster.waiting.size() - most
	if most <= 0 || surplus <= 0 {
		return nil
	}
	within := min(time.Duration(surplus)*time.Millisecond, mostStagger)
	select {
	case <-time.After(rand.N(within)):
		return nil
	case <-w.gone:
		return errClientGone
	case <-ctx.Done():
		return refuse(ReasonEnded, errShutdown)
	}
}

// unheld is the end of the session's patience: it takes what there is, or nothing.
func (s *session) unheld() error {
	switch {
	case s.decision.Verdict == policy.Serve:
		return nil
	case len(s.decision.Backends) > 0:
		s.mu.Lock()
		s.decision.Verdict = policy.Serve
		s.mu.Unlock()
		return nil
	default:
		return errNoServer(s.decision, s.held)
	}
}

// again returns nil when a login whose servers have failed is to be tried once more with a new decision, else why not.
func (s *session) again(ctx context.Context, tried int, failure error) error {
	if s.patience() <= 0 || ctx.Err() != nil || errors.Is(failure, errClientGone) {
		return failure
	}
	if err := s.hold(ctx, pause(tried)); err != nil {
		return errors.Join(err, failure)
	}
	return nil
}

// pause is how long a login rests after so many rounds that failed, without news: a moment, and longer each time.
func pause(tried int) time.Duration {
	const first, most = 100 * time.Millisecond, time.Second
	d := min(first<<min(tried-1, 10), most)
	return d - rand.N(d/4)
}

// watch waits for a client to go away.
type watch struct {
	gone, done chan struct{}
}

// watchClient reads on from a client that has nothing to say. What it says all the same stays in the Reader, and ends the watch,
// not the wait.
func (s *session) watchClient() (watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cutShort(); err != nil {
		return watch{}, err
	}
	if err := s.client.Conn.SetReadDeadline(time.Time{}); err != nil {
		return watch{}, clientError(err)
	}
	w := watch{make(chan struct{}), make(chan struct{})}
	go s.watchUntilRead(w)
	return w, nil
}

func (s *session) watchUntilRead(w watch) {
	defer close(w.done)
	err := s.up.Await()
	var timeout interface{ Timeout() bool }
	if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		close(w.gone)
	}
}

// unwatchClient ends the watch, and puts the deadline of the login off by the time that was waited.
func (s *session) unwatchClient(w watch, waited time.Duration) error {
	_ = s.client.Conn.SetReadDeadline(time.Unix(1, 0)) // where it fails the read has failed too
	<-w.done
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client.Deadline = s.client.Deadline.Add(waited)
	if err := s.cutShort(); err != nil {
		return err
	}
	if err := s.client.Conn.SetDeadline(s.client.Deadline); err != nil {
		return clientError(err)
	}
	return nil
}

// outcomeOf names the end of a wait.
func outcomeOf(err error) HoldOutcome {
	switch {
	case err == nil:
		return HoldServed
	case errors.Is(err, errOver):
		return HoldExpired
	case errors.Is(err, errClientGone):
		return HoldGone
	default:
		return HoldEnded
	}
}
