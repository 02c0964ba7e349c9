//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"
)

// run is one run of one workload through one target.
type run struct {
	Round    int     `json:"round"` // from 1
	Workload string  `json:"workload"`
	Target   string  `json:"target"`
	Units    float64 `json:"units"`             // transactions, logins, or GB of 10^9 bytes
	Rate     float64 `json:"units_per_second"`  // as the client tells it
	CPU      float64 `json:"proxy_cpu_seconds"` // 0 without a proxy
	Others   float64 `json:"others_cpu_share"`  // 0 to 1
	Error    string  `json:"error,omitempty"`
}

// step is a run, or a measurement of memory, that is to be done.
type step struct {
	round    int
	workload workload
	target   target
}

func (s step) String() string {
	return fmt.Sprintf("round %d, %s, %s", s.round, s.workload.name, s.target.name)
}

// results are everything that was found.
type results struct {
	Machine machine  `json:"machine"`
	Seed    uint64   `json:"seed"`
	Rounds  int      `json:"rounds"`
	Seconds int      `json:"seconds"`
	Copied  int64    `json:"copied_bytes"`
	Runs    []run    `json:"runs"`
	Idle    []idle   `json:"idle"`
	Summary []row    `json:"summary"`
	Skipped []string `json:"skipped,omitempty"`
}

// bench does all steps and reports. The error says which failed; what did not is in the report all the same.
func bench(ctx context.Context, s settings) (err error) {
	var res results
	if s.workloads, res.Skipped, err = possible(s.workloads); err != nil {
		return err
	}
	for _, skipped := range res.Skipped {
		progress("skipped: %s", skipped)
	}
	progress("starting PostgreSQL, loading data")
	r, err := newRig(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if res.Machine, err = r.describe(ctx); err != nil {
		return err
	}
	res.Seed, res.Rounds, res.Seconds, res.Copied = s.seed, s.rounds, s.seconds, int64(s.pieces)*pieceBytes
	steps := plan(s)
	failed, err := r.doAll(ctx, s, steps, &res)
	if err != nil {
		return err
	}
	res.Summary = summary(s, res.Runs)
	if err := report(os.Stdout, s, res); err != nil {
		return err
	}
	if err := writeJSON(s.json, res); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d failed: %s", len(failed), len(steps), strings.Join(failed, "; "))
	}
	return nil
}

// doAll does the steps, tells how each went and returns those that failed. It goes on after a failure, and fails itself
// only when it is interrupted.
func (r *rig) doAll(ctx context.Context, s settings, steps []step, res *results) (failed []string, err error) {
	start := time.Now()
	for i, step := range steps {
		told, err := r.do(ctx, s, step, res)
		if ctx.Err() != nil {
			return nil, errors.New("interrupted")
		}
		if err != nil {
			failed = append(failed, step.String())
			told = "FAILED: " + err.Error()
		}
		progress("%3.0fs %d/%d %s: %s", time.Since(start).Seconds(), i+1, len(steps), step, told)
	}
	return failed, nil
}

// progress tells whoever waits what goes on.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// possible leaves out the workloads that the machine has no room for, and says why.
func possible(all []workload) (kept []workload, skipped []string, err error) {
	if err := raiseOpenFiles(); err != nil {
		return nil, nil, err
	}
	for _, w := range all {
		if reason := tooMany(w.sessions); w.sessions > 0 && reason != nil {
			skipped = append(skipped, fmt.Sprintf("%s: %v", w.name, reason))
			continue
		}
		kept = append(kept, w)
	}
	return kept, skipped, nil
}

// plan returns the steps in random order: in each round the workloads in any order, and within each the targets in any
// order, so that those which are compared are near in time. Memory, which varies little, is measured in the first round
// only.
func plan(s settings) []step {
	random := rand.New(rand.NewPCG(s.seed, 0))
	var steps []step
	for round := range s.rounds {
		for _, w := range shuffled(random, s.workloads) {
			if w.sessions > 0 && round > 0 {
				continue
			}
			for _, t := range shuffled(random, s.targets) {
				if t.runs(w) {
					steps = append(steps, step{round: round + 1, workload: w, target: t})
				}
			}
		}
	}
	return steps
}

func shuffled[T any](random *rand.Rand, all []T) []T {
	all = slices.Clone(all)
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// do does one step, adds what it gave to the results and returns it in words.
func (r *rig) do(ctx context.Context, s settings, step step, res *results) (told string, err error) {
	if step.workload.sessions > 0 {
		found := idle{Target: step.target.name, Sessions: step.workload.sessions}
		err := r.with(ctx, step.target, func(p *proxy) error { return r.measureIdle(ctx, p, &found) })
		found.Error = text(err)
		res.Idle = append(res.Idle, found)
		return fmt.Sprintf("%.1f KiB a session, %.1f after 256 KiB each", found.perSession(found.Idle),
			found.perSession(found.Burst)), err
	}
	found := run{Round: step.round, Workload: step.workload.name, Target: step.target.name}
	err = r.with(ctx, step.target, func(p *proxy) error { return r.measure(ctx, s, p, step.workload, &found) })
	found.Error = text(err)
	res.Runs = append(res.Runs, found)
	u := step.workload.unit
	told = fmt.Sprintf("%.4g %s", found.Rate*u.rateScale, u.rate)
	if step.target.launch != nil {
		told += fmt.Sprintf(", %.4g %s", found.cost()*u.costScale, u.cost)
	}
	return fmt.Sprintf("%s, others %.0f%%", told, 100*found.Others), err
}

// with starts a target on a machine that has come to rest, uses it and stops it.
func (r *rig) with(ctx context.Context, t target, use func(*proxy) error) error {
	if err := r.quiet(ctx); err != nil {
		return err
	}
	p, err := r.start(ctx, t)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := use(p); err != nil {
		err = p.explain(err)
		_ = p.stop() // the first error is the one to tell
		return err
	}
	return p.stop()
}

// text is an error for the file of results.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// measure runs a workload between two readings of the counters.
func (r *rig) measure(ctx context.Context, s settings, p *proxy, w workload, found *run) error {
	before, err := readCounters(p.pid())
	if err != nil {
		return err
	}
	done, err := w.work(ctx, r, s, p.endpoint)
	if err != nil {
		return err
	}
	after, err := readCounters(p.pid())
	if err != nil {
		return err
	}
	used := after.since(before)
	found.Units, found.Rate = done.units, done.rate
	found.CPU, found.Others = used.proxy.Seconds(), used.others()
	return nil
}

// cost is the proxy's CPU time per unit, in seconds.
func (r run) cost() float64 {
	if r.Units == 0 {
		return 0
	}
	return r.CPU / r.Units
}
