//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
)

// spread is what several values come to.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// spreadOf returns the spread of values, the zero value for none.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	return spread{Median: median(values), Min: slices.Min(values), Max: slices.Max(values), N: len(values)}
}

// String is the median with two decimals, the range and the number of values.
func (s spread) String() string {
	if s.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f [%.2f-%.2f] %d", s.Median, s.Min, s.Max, s.N)
}

// median returns the middle value, or the mean of the middle two. None has NaN.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// values returns a figure of each run of a target in a workload, by round. Runs that failed have none.
func values(runs []run, workload, target string, figure func(run) float64) map[int]float64 {
	found := make(map[int]float64)
	for _, r := range runs {
		if r.Workload == workload && r.Target == target && r.Error == "" {
			found[r.Round] = figure(r)
		}
	}
	return found
}

// ratios divides the figures of two targets round by round. Rounds that lack one of them, or where the second is 0, have
// no ratio.
func ratios(of, to map[int]float64) []float64 {
	var found []float64
	for round, value := range of {
		if base, ok := to[round]; ok && base != 0 {
			found = append(found, value/base)
		}
	}
	return found
}

// row is what is told of one target in one workload.
type row struct {
	Workload string `json:"workload"`
	Target   string `json:"target"`
	Peer     string `json:"peer,omitempty"` // whose CPU is the measure
	Rate     spread `json:"units_per_second"`
	RateBase spread `json:"rate_to_direct_tls"`
	Cost     spread `json:"proxy_cpu_seconds_per_unit"`
	CostPeer spread `json:"proxy_cpu_to_peer"`
}

// summary makes a row of each target in each workload.
func summary(s settings, runs []run) []row {
	var rows []row
	for _, w := range s.workloads {
		for _, t := range s.targets {
			if w.work != nil && t.runs(w) {
				rows = append(rows, summarise(runs, w, t))
			}
		}
	}
	return rows
}

// summarise makes the row of a target in a workload.
func summarise(runs []run, w workload, t target) row {
	rates := values(runs, w.name, t.name, func(r run) float64 { return r.Rate })
	baseRates := values(runs, w.name, baseline, func(r run) float64 { return r.Rate })
	sum := row{
		Workload: w.name, Target: t.name,
		Rate:     spreadOf(all(rates)),
		RateBase: spreadOf(ratios(rates, baseRates)),
	}
	if t.launch == nil {
		return sum
	}
	costs := values(runs, w.name, t.name, run.cost)
	sum.Peer = t.peer(w)
	sum.Cost = spreadOf(all(costs))
	sum.CostPeer = spreadOf(ratios(costs, values(runs, w.name, sum.Peer, run.cost)))
	return sum
}

func all(byRound map[int]float64) []float64 {
	var list []float64
	for _, value := range byRound {
		list = append(list, value)
	}
	return list
}

// othersOf returns the spread of the share of CPU that others took, over all runs that did not fail.
func othersOf(runs []run) spread {
	var shares []float64
	for _, r := range runs {
		if r.Error == "" {
			shares = append(shares, r.Others)
		}
	}
	return spreadOf(shares)
}
