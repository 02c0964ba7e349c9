//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// idle is the memory of a proxy, in bytes of its resident set.
type idle struct {
	Target   string `json:"target"`
	Sessions int    `json:"sessions"`
	Base     int64  `json:"base_bytes"`  // after one session has come and gone
	Idle     int64  `json:"idle_bytes"`  // with all sessions, idle since each had a small result
	Burst    int64  `json:"burst_bytes"` // with all sessions, idle since each had a large one
	Error    string `json:"error,omitempty"`
}

// perSession is what memory is more than the base, for each session, in KiB.
func (i idle) perSession(memory int64) float64 {
	return float64(memory-i.Base) / float64(i.Sessions) / 1024
}

// The queries with a small result and with a large one, of 256 KiB. The small one makes a session of what may be no more
// than a client: PgBouncer picks a server connection at the first query.
const (
	small = "SELECT 1"
	burst = "SELECT repeat('x', 262144)"
)

// settle is how long a proxy has nothing to do before its memory is read.
const settle = 3 * time.Second

// measureIdle measures a proxy that was just started, with as many sessions as found says.
func (r *rig) measureIdle(ctx context.Context, p *proxy, found *idle) (err error) {
	if found.Base, err = settledMemory(ctx, p.pid()); err != nil {
		return err
	}
	held := make([]*pgconn.PgConn, found.Sessions)
	defer func() {
		for _, conn := range held {
			if conn != nil {
				_ = conn.Conn().Close() // no farewell: the proxy is about to be stopped
			}
		}
	}()
	err = each(found.Sessions, func(i int) (err error) {
		if held[i], err = r.connect(ctx, p.endpoint); err != nil {
			return err
		}
		_, err = held[i].Exec(ctx, small).ReadAll()
		return err
	})
	if err != nil {
		return err
	}
	if found.Idle, err = settledMemory(ctx, p.pid()); err != nil {
		return err
	}
	err = each(found.Sessions, func(i int) error {
		_, err := held[i].Exec(ctx, burst).ReadAll()
		return err
	})
	if err != nil {
		return err
	}
	found.Burst, err = settledMemory(ctx, p.pid())
	return err
}

// settledMemory returns the memory of a process that had some time to come to rest.
func settledMemory(ctx context.Context, pid int) (int64, error) {
	select {
	case <-time.After(settle):
		return residentMemory(pid)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// each calls do for 0 to n-1, a few at a time, until one fails.
func each(n int, do func(i int) error) error {
	const atOnce = 8
	var next atomic.Int64
	var workers sync.WaitGroup
	errs := make([]error, atOnce)
	for worker := range atOnce {
		workers.Go(func() {
			for errs[worker] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					errs[worker] = fmt.Errorf("session %d: %w", i+1, err)
					next.Store(int64(n)) // the others need not go on
				}
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// sessionMemory is what a session takes of the machine, most of it for its server process.
const sessionMemory = 3 << 20

// tooMany returns why the machine cannot have so many idle sessions, or nil.
func tooMany(sessions int) error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	if need := uint64(2*sessions + 200); files.Cur < need {
		return fmt.Errorf("a proxy needs %d open files, ulimit -n is %d", need, files.Cur)
	}
	available, err := machineMemory("MemAvailable")
	if err != nil {
		return err
	}
	if need := int64(sessions) * sessionMemory; available < need {
		return fmt.Errorf("the sessions need %d MiB of memory, %d MiB are available", need>>20, available>>20)
	}
	return nil
}

// raiseOpenFiles raises the limit of open files as far as it goes, for this process and for those that it starts, whom Go
// would else give the limit that this process was started with.
func raiseOpenFiles() error {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Cur = files.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files)
}
