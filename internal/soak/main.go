//go:build linux

// Command soak keeps the built program under load and under attack for a while, and fails if a well-behaved client notices, if
// memory grows, if strangers fill the log, or if anything is left at the end. `make soak` runs it.
//
// Thousands of TLS sessions stand idle, others work, all on one machine: a fake server plays them, because PostgreSQL would be
// too heavy. What the program's monitors ask is passed on to two real servers behind the fake ones, a primary and its standby,
// and a few sessions are with the real ones. Clients log in all the time as fast as the machine lets them, and some dawdle: first
// so, then while hundreds of hostile ones do what they can, and at last while the fakes also change places now and then, so that
// the program sees the roles change.
//
// The report is on standard output: memory for each idle session, logins per second, and the 99th percentile of a login, with the
// attack and without. Absolute numbers hold for this machine only, which the clients and the servers use too.
//
// main.go says what is asked for, soak.go in which order things happen, clients.go who the clients are, hostile.go who
// is no client, server.go what plays the servers, process.go the program itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	s := settings{}
	minutes := flag.Float64("minutes", 10, "how long the load stays")
	flag.IntVar(&s.idle, "idle", 8000, "sessions that stand idle, fewer where the limit of descriptors has no room for them")
	flag.IntVar(&s.active, "active", 2000, "sessions that work")
	flag.IntVar(&s.hostile, "hostile", 500, "hostile connections at a time")
	flag.StringVar(&s.binary, "binary", "bin/pgreplicaproxy", "the program")
	flag.Parse()
	s.load = time.Duration(*minutes * float64(time.Minute))
	report, err := soak(ctx, s)
	fmt.Print(report)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// settings are what the command line asks for.
type settings struct {
	idle, active, hostile int
	load                  time.Duration
	binary                string
}

// fit takes away as many idle sessions as the limit of descriptors has no room for, and returns it. A session takes two in the
// program, and two here, where its client and its server are.
func (s *settings) fit() (limit int, err error) {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0, err
	}
	const others = 800 // logins on their way, monitors, files, and what is just being closed
	limit = int(min(r.Max, 1<<30))
	s.idle = min(s.idle, (limit-s.hostile-others)/2-s.active)
	if s.idle <= 0 {
		return limit, fmt.Errorf("%d descriptors are too few: raise the limit (ulimit -n), or ask for fewer sessions", limit)
	}
	return limit, nil
}

var errInterrupted = errors.New("interrupted")
