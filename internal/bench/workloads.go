//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// workload is something that clients do.
type workload struct {
	name  string
	about string
	quick bool
	unit  unit
	work  work

	logins   bool // what it counts are logins
	sessions int  // it measures the memory of so many idle sessions, and has neither unit nor work
}

// work does a workload through an endpoint.
type work func(ctx context.Context, r *rig, s settings, e endpoint) (outcome, error)

// outcome is what a client has got done, in the workload's unit.
type outcome struct {
	units float64
	rate  float64 // units per second
}

// unit is what a workload counts, with the words and scales that are usual for it.
type unit struct {
	rate      string  // "tps"
	rateScale float64 // so many of that are one unit per second
	cost      string  // "µs/tx"
	costScale float64 // so many of that are one CPU second per unit
}

// workloads are all there are, in the order of the report.
func workloads() []workload {
	transactions := unit{rate: "tps", rateScale: 1, cost: "µs/tx", costScale: 1e6}
	logins := unit{rate: "logins/s", rateScale: 1, cost: "ms/login", costScale: 1e3}
	gigabytes := unit{rate: "MB/s", rateScale: 1e3, cost: "s/GB", costScale: 1}
	return []workload{
		{
			name: "prep1", quick: true, unit: transactions, work: pgbench(1, "prepared"),
			about: "pgbench -S -M prepared, 1 client",
		},
		{
			name: "prep16", quick: true, unit: transactions, work: pgbench(16, "prepared"),
			about: "pgbench -S -M prepared, 16 clients",
		},
		{name: "prep64", unit: transactions, work: pgbench(64, "prepared"), about: "pgbench -S -M prepared, 64 clients"},
		{name: "simple16", unit: transactions, work: pgbench(16, "simple"), about: "pgbench -S -M simple, 16 clients"},
		{
			name: "churn8", quick: true, unit: logins, logins: true, work: pgbench(8, "simple", "-C"),
			about: "pgbench -S -C, 8 clients: a login for each transaction",
		},
		{name: "copyout", quick: true, unit: gigabytes, work: copyOut, about: "COPY TO STDOUT, lines of 1 KiB"},
		{name: "copyin", quick: true, unit: gigabytes, work: copyIn, about: "COPY FROM STDIN, the same lines"},
		{name: "idle1000", quick: true, sessions: 1000},
		{name: "idle5000", sessions: 5000},
	}
}

func (w workload) called() (name string, quick bool) { return w.name, w.quick }

// pgbench runs read-only transactions for some seconds. The time and the proxy's CPU include the first logins; the rate
// does not.
func pgbench(clients int, protocol string, args ...string) work {
	return func(ctx context.Context, r *rig, s settings, e endpoint) (outcome, error) {
		args := append([]string{
			"-n", "-S", "-M", protocol, "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)),
			"-T", strconv.Itoa(s.seconds),
		}, args...)
		out, err := r.client(ctx, r.pgbench, append(args, e.conninfo())...)
		if err != nil {
			return outcome{}, err
		}
		return parsePgbench(out)
	}
}

// What pgbench prints since PostgreSQL 14 (print_results in pgbench.c).
var (
	pgbenchCount  = regexp.MustCompile(`(?m)^number of transactions actually processed: (\d+)`)
	pgbenchRate   = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \((?:without initial connection time|including reconnection times)\)`)
	pgbenchFailed = regexp.MustCompile(`(?m)^number of failed transactions: ([1-9]\d*)`)
)

// parsePgbench reads pgbench's report.
func parsePgbench(out []byte) (outcome, error) {
	if failed := pgbenchFailed.FindSubmatch(out); failed != nil {
		return outcome{}, fmt.Errorf("pgbench: %s transactions failed", failed[1])
	}
	count, rate := pgbenchCount.FindSubmatch(out), pgbenchRate.FindSubmatch(out)
	if count == nil || rate == nil {
		return outcome{}, fmt.Errorf("pgbench: report not understood:\n%s", lastLines(out))
	}
	units, errUnits := strconv.ParseFloat(string(count[1]), 64)
	perSecond, errRate := strconv.ParseFloat(string(rate[1]), 64)
	if err := errors.Join(errUnits, errRate); err != nil {
		return outcome{}, fmt.Errorf("pgbench: %w", err)
	}
	if units == 0 {
		return outcome{}, errors.New("pgbench: no transaction was processed")
	}
	return outcome{units: units, rate: perSecond}, nil
}

// copyOut copies the table of lines to nowhere, several times in one session.
func copyOut(ctx context.Context, r *rig, s settings, e endpoint) (outcome, error) {
	return copyPieces(ctx, r, s, e, "-c", `\copy lines to /dev/null`)
}

// copyIn copies the file of lines into a table that is emptied before each time, so that its pages stay in memory.
func copyIn(ctx context.Context, r *rig, s settings, e endpoint) (outcome, error) {
	return copyPieces(ctx, r, s, e, "-c", "TRUNCATE sink", "-c", `\copy sink from '`+r.pieceFile()+`'`)
}

// copyPieces repeats commands of psql that move a piece. The rate is what the user of psql sees, start and login included.
func copyPieces(ctx context.Context, r *rig, s settings, e endpoint, commands ...string) (outcome, error) {
	args := psqlArgs(e)
	for range s.pieces {
		args = append(args, commands...)
	}
	start := time.Now()
	if _, err := r.client(ctx, r.psql, args...); err != nil {
		return outcome{}, err
	}
	gigabytes := float64(s.pieces) * pieceBytes / 1e9
	return outcome{units: gigabytes, rate: gigabytes / time.Since(start).Seconds()}, nil
}

func psqlArgs(e endpoint) []string {
	return []string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", e.conninfo()}
}

// client runs a client program and returns what it prints. Its end is waited for, but not for ever.
func (r *rig) client(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+r.password)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", program, errors.Join(err, context.Cause(ctx)), lastLines(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
