package certstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"time"
)

// A lock is a row with an owner and a time at which it is anybody's. Its holder moves that time on while it works, so that a
// holder that died is waited for no longer than leaseTime. The database's clock is the only one asked.

const (
	leaseTime = 30 * time.Second
	leaseTurn = leaseTime / 3
	lockPause = time.Second // between two attempts
)

// lease is a lock that is held.
type lease struct {
	owner string
	stop  context.CancelFunc // ends its renewal
	ended chan struct{}      // closed when that has ended
}

// Lock waits for a lock, until ctx ends, and holds it until Unlock.
func (s *Store) Lock(ctx context.Context, name string) error {
	owner := rand.Text()
	for {
		taken, err := s.run(ctx, `INSERT INTO pgreplicaproxy.certificate_locks AS l (name, owner, expires)
VALUES ($1, $2, now() + $3::interval) ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires = excluded.expires
WHERE l.expires < now() RETURNING 1`, name, owner, interval(leaseTime))
		if err != nil {
			return fmt.Errorf("lock %s: %w", name, err)
		}
		if len(taken) > 0 {
			s.hold(name, owner)
			return nil
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// interval writes a duration as the database reads it.
func interval(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10) + " milliseconds"
}

// hold begins to renew a lease.
func (s *Store) hold(name, owner string) {
	ctx, stop := context.WithCancel(context.Background())
	l := lease{owner, stop, make(chan struct{})}
	go func() {
		defer close(l.ended)
		s.renew(ctx, name, owner)
	}()
	s.leasing.Lock()
	defer s.leasing.Unlock()
	s.leases[name] = l
}

// renew moves the end of a lease on until ctx ends. Where the database cannot be asked it tries again: the lock may be lost then,
// which certmagic can bear, for orders are only made twice.
func (s *Store) renew(ctx context.Context, name, owner string) {
	tick := time.NewTicker(leaseTurn)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, _ = s.run(ctx, `UPDATE pgreplicaproxy.certificate_locks SET expires = now() + $3::interval WHERE name = $1 AND owner = $2`,
				name, owner, interval(leaseTime))
		case <-ctx.Done():
			return
		}
	}
}

// Unlock gives a lock back that Lock has taken, whether or not ctx has ended.
func (s *Store) Unlock(ctx context.Context, name string) error {
	s.leasing.Lock()
	l, held := s.leases[name]
	delete(s.leases, name)
	s.leasing.Unlock()
	if !held {
		return fmt.Errorf("unlock %s: not locked", name)
	}
	l.stop()
	<-l.ended
	_, err := s.run(context.WithoutCancel(ctx), `DELETE FROM pgreplicaproxy.certificate_locks WHERE name = $1 AND owner = $2`, name, l.owner)
	return err
}
