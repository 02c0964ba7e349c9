//go:build linux

// Command bench measures the built program against its peers: PgBouncer, HAProxy and a direct connection, all in front
// of one throwaway PostgreSQL with TLS on this machine. `make bench` runs it, by run.sh, which sees to it that the machine's
// congestion control is not what is measured.
//
// Absolute numbers mean little on a machine that others use too, so it works in rounds. Each round runs every workload
// through every target, in random order, and everything is told as the median of ratios within a round: the rate to
// that of a direct TLS connection, the CPU time of the proxy to that of PgBouncer doing the same work. CPU time is the
// operating system's account of the proxy's process. How much CPU other programs took meanwhile is part of the report:
// where it is more than a few percent, rates say little, while CPU ratios still say much.
//
// Every run has a proxy of its own, started before and stopped after. Clients are pgbench and psql, processes of their own,
// so that they cost the same whatever they talk to. They use TLS and SCRAM-SHA-256, with an ECDSA P-256 certificate.
//
// The report is Markdown on standard output, with -json also a file that holds every single run; progress goes to
// standard error. The exit code is 1 when a run failed, 2 for bad usage.
//
// What it does not measure: networks, slow disks (PostgreSQL does not wait for any here), many cores.
//
// targets.go and workloads.go say what is measured, measure.go how, bench.go in which order, summary.go and report.go
// what is made of it. It needs Linux, for /proc.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	os.Exit(execute(ctx, os.Args[1:]))
}

// execute returns the exit code.
func execute(ctx context.Context, args []string) int {
	s, err := parseSettings(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	if err := bench(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// settings are what the command line asks for.
type settings struct {
	rounds    int
	seconds   int // of a run of pgbench
	pieces    int // of a run of COPY, each pieceBytes
	targets   []target
	workloads []workload
	seed      uint64 // of the order
	json      string // a file to write, or none
	binary    string // of pgreplicaproxy
}

// sessions is how many the servers must take: those of the largest workload, and some to spare.
func (s settings) sessions() int {
	most := 800
	for _, w := range s.workloads {
		most = max(most, w.sessions)
	}
	return most + 200
}

// parseSettings reads the command line.
func parseSettings(args []string) (settings, error) {
	var s settings
	var quick bool
	var targetNames, workloadNames string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&quick, "quick", false, "the most telling part of it, in about 3 minutes")
	flags.IntVar(&s.rounds, "rounds", 0, "number of rounds (default 5, with -quick 3)")
	flags.IntVar(&s.seconds, "seconds", 0, "length of a run of pgbench (default 5, with -quick 2)")
	flags.StringVar(&targetNames, "targets", "", "comma-separated, some of: "+strings.Join(names(targets()), ", "))
	flags.StringVar(&workloadNames, "workloads", "", "comma-separated, some of: "+strings.Join(names(workloads()), ", "))
	flags.StringVar(&s.json, "json", "", "also write every run to this `file`")
	flags.Uint64Var(&s.seed, "seed", rand.Uint64N(1e6), "seed of the random order")
	flags.StringVar(&s.binary, "binary", "bin/pgreplicaproxy", "the program to measure")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	defaults := settings{rounds: 5, seconds: 5, pieces: 8}
	if quick {
		defaults = settings{rounds: 3, seconds: 2, pieces: 1}
	}
	if s.rounds == 0 {
		s.rounds = defaults.rounds
	}
	if s.seconds == 0 {
		s.seconds = defaults.seconds
	}
	s.pieces = defaults.pieces
	if s.rounds < 0 || s.seconds < 0 {
		return s, errors.New("-rounds and -seconds must be positive")
	}
	var errTargets, errWorkloads error
	s.targets, errTargets = choose(targets(), targetNames, quick)
	s.workloads, errWorkloads = choose(workloads(), workloadNames, quick)
	return s, errors.Join(errTargets, errWorkloads)
}

// named is a target or a workload, which the command line calls by its name.
type named interface {
	target | workload
	called() (name string, quick bool)
}

func names[T named](all []T) []string {
	var list []string
	for _, one := range all {
		name, _ := one.called()
		list = append(list, name)
	}
	return list
}

// choose returns those that a comma-separated list names, in their own order. An empty list names all, or with quick those
// that are quick.
func choose[T named](all []T, list string, quick bool) ([]T, error) {
	wanted := make(map[string]bool)
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" {
			wanted[name] = true
		}
	}
	byName := len(wanted) > 0
	var chosen []T
	for _, one := range all {
		name, isQuick := one.called()
		if byName && wanted[name] || !byName && (isQuick || !quick) {
			chosen = append(chosen, one)
		}
		delete(wanted, name)
	}
	for name := range wanted {
		return nil, fmt.Errorf("%q is unknown; there are: %s", name, strings.Join(names(all), ", "))
	}
	return chosen, nil
}
