//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// quietShare is how much CPU others may take before the report warns.
const quietShare = 0.05

// report writes the Markdown.
func report(w io.Writer, s settings, res results) error {
	out := bufio.NewWriter(w)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) } // Flush reports errors
	reportSetting(p, s, res)
	for _, w := range s.workloads {
		if w.work != nil {
			reportWorkload(p, res, w)
		}
	}
	if len(res.Idle) > 0 {
		reportIdle(p, s, res)
	}
	return out.Flush()
}

type printer func(format string, args ...any)

// reportSetting says what was measured where, and how quiet it was there.
func reportSetting(p printer, s settings, res results) {
	m := res.Machine
	p("# Benchmark\n")
	p("- Machine: %d CPUs (%s), %.0f GiB, %s, congestion control %s", m.CPUs, m.Model, m.MemoryGiB, m.System, m.Congestion)
	p("- Versions: %s, %s, %s, %s, clients %s", m.Program, m.PostgreSQL, m.PgBouncer, m.HAProxy, m.Pgbench)
	p("- %d rounds, pgbench for %d s, COPY of %d MiB, seed %d", res.Rounds, res.Seconds, res.Copied>>20, res.Seed)
	if others := othersOf(res.Runs); others.N > 0 {
		p("- CPU that other programs took: median %.0f%%, worst %.0f%% (%d runs)", 100*others.Median, 100*others.Max, others.N)
		if others.Median > quietShare {
			p("- **The machine was not quiet.** Judge by the CPU ratios; rates say little.")
		}
	}
	for _, skipped := range res.Skipped {
		p("- Skipped: %s", skipped)
	}
	for _, r := range res.Runs {
		if r.Error != "" {
			p("- **Failed**: round %d, %s, %s", r.Round, r.Workload, r.Target)
		}
	}
	p("\nRatios are within a round, then: median [min-max] number of rounds. Targets:\n")
	for _, t := range s.targets {
		p("- %s: %s", t.name, t.about)
	}
}

// reportWorkload writes the table of one workload.
func reportWorkload(p printer, res results, w workload) {
	p("\n## %s\n\n%s\n", w.name, w.about)
	p("| target | %s | rate to %s | proxy CPU %s | proxy CPU to | |", w.unit.rate, baseline, w.unit.cost)
	p("| --- | ---: | --- | ---: | --- | --- |")
	for _, sum := range res.Summary {
		if sum.Workload == w.name {
			p("| %s | %s | %s | %s | %s | %s |", sum.Target, scaled(sum.Rate, w.unit.rateScale), sum.RateBase,
				scaled(sum.Cost, w.unit.costScale), sum.CostPeer, sum.Peer)
		}
	}
}

// scaled tells a median in a unit that people use.
func scaled(s spread, scale float64) string {
	value := s.Median * scale
	switch {
	case s.N == 0:
		return "-"
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

// reportIdle writes the table of memory.
func reportIdle(p printer, s settings, res results) {
	p("\n## Memory\n\nKiB of resident memory per idle session over the base, before and after a result of 256 KiB each\n")
	p("| target | sessions | base MiB | idle | after the result |")
	p("| --- | ---: | ---: | ---: | ---: |")
	for _, t := range s.targets {
		found := slices.Clone(res.Idle)
		found = slices.DeleteFunc(found, func(i idle) bool { return i.Target != t.name })
		slices.SortFunc(found, func(a, b idle) int { return a.Sessions - b.Sessions })
		for _, i := range found {
			if i.Error != "" {
				p("| %s | %d | **failed** | | |", i.Target, i.Sessions)
				continue
			}
			p("| %s | %d | %.1f | %.1f | %.1f |", i.Target, i.Sessions, float64(i.Base)/(1<<20),
				i.perSession(i.Idle), i.perSession(i.Burst))
		}
	}
}

// writeJSON writes the results to a file, if it has a name.
func writeJSON(path string, res results) error {
	if path == "" {
		return nil
	}
	content, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}
