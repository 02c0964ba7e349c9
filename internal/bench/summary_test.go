//go:build linux

package main

import (
	"math"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 100, 2}, 3},
	} {
		given := slices.Clone(test.values)
		if got := median(test.values); got != test.want {
			t.Errorf("%v: got %v, want %v", test.values, got, test.want)
		}
		if !slices.Equal(given, test.values) {
			t.Errorf("%v was put in order in place: %v", given, test.values)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("of nothing: got %v", got)
	}
}

func TestSpread(t *testing.T) {
	if got, want := spreadOf([]float64{2, 0.5, 1}).String(), "1.00 [0.50-2.00] 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := spreadOf(nil).String(), "-"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestSummarise: ratios are taken within a round. The medians of the figures themselves would give other ratios here.
func TestSummarise(t *testing.T) {
	prep := workload{name: "prep"}
	proxy := target{name: "pgreplicaproxy", launch: haproxy}
	runs := []run{
		{Round: 1, Workload: "prep", Target: baseline, Units: 10, Rate: 100},
		{Round: 2, Workload: "prep", Target: baseline, Units: 10, Rate: 1000},
		{Round: 3, Workload: "prep", Target: baseline, Units: 10, Rate: 10},
		{Round: 4, Workload: "prep", Target: baseline, Error: "failed"},

		{Round: 1, Workload: "prep", Target: "pgbouncer", Units: 10, Rate: 80, CPU: 10},
		{Round: 2, Workload: "prep", Target: "pgbouncer", Error: "failed"},
		{Round: 3, Workload: "prep", Target: "pgbouncer", Units: 10, Rate: 80, CPU: 40},

		{Round: 1, Workload: "prep", Target: proxy.name, Units: 10, Rate: 80, CPU: 5},
		{Round: 2, Workload: "prep", Target: proxy.name, Units: 10, Rate: 500, CPU: 9},
		{Round: 3, Workload: "prep", Target: proxy.name, Units: 20, Rate: 9, CPU: 60},
		{Round: 4, Workload: "prep", Target: proxy.name, Units: 10, Rate: 9, CPU: 7},
		{Round: 1, Workload: "other", Target: proxy.name, Units: 1, Rate: 1, CPU: 1},
	}
	got := summarise(runs, prep, proxy)
	want := row{
		Workload: "prep", Target: proxy.name, Peer: "pgbouncer",
		Rate:     spread{Median: 44.5, Min: 9, Max: 500, N: 4},
		RateBase: spread{Median: 0.8, Min: 0.5, Max: 0.9, N: 3},
		Cost:     spread{Median: 0.8, Min: 0.5, Max: 3, N: 4},
		CostPeer: spread{Median: 0.625, Min: 0.5, Max: 0.75, N: 2},
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := summarise(runs, prep, target{name: baseline}); got.Cost.N != 0 || got.RateBase.Median != 1 {
		t.Errorf("direct connection: got %+v", got)
	}
}

func TestPeer(t *testing.T) {
	for _, test := range []struct {
		serverTLS, logins bool
		want              string
	}{
		{false, false, "pgbouncer"},
		{true, false, "pgbouncer-tls"},
		{false, true, "pgbouncer-norecycle"},
		{true, true, "pgbouncer-tls-norecycle"},
	} {
		got := target{serverTLS: test.serverTLS}.peer(workload{logins: test.logins})
		if got != test.want || !slices.Contains(names(targets()), got) {
			t.Errorf("%+v: got %q, want %q, a target", test, got, test.want)
		}
	}
}

func TestOthersOf(t *testing.T) {
	runs := []run{{Others: 0.1}, {Others: 0.5}, {Others: 0.2}, {Others: 0.9, Error: "failed"}}
	if got, want := othersOf(runs), (spread{Median: 0.2, Min: 0.1, Max: 0.5, N: 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
