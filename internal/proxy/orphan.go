package proxy

import (
	"context"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/wire"
)

const (
	// orphanTime is how long after the end of a session its query is worth cancelling.
	orphanTime = 5 * time.Second
	// orphansAtOnce bounds how many queries are cancelled at a time.
	orphansAtOnce = 32
)

// orphans are queries whose session was cut off: PostgreSQL goes on with one until it has something to say to its client, which
// may be never, and may commit what nobody will hear of.
type orphans struct {
	places chan struct{}
}

func newOrphans() orphans { return orphans{make(chan struct{}, orphansAtOnce)} }

// cancel asks the server once to give up the query of a session with this key. It returns within orphanTime; what comes of it
// cannot be known.
func (o orphans) cancel(target backends.Target, key wire.Cancel) {
	ctx, done := context.WithTimeout(context.Background(), orphanTime)
	defer done()
	select {
	case o.places <- struct{}{}:
		defer func() { <-o.places }()
		_, _ = passCancel(ctx, target, key, backends.Origin{}) // a server that is gone has no query either
	case <-ctx.Done():
	}
}
