//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestParsePgbench(t *testing.T) {
	const report = `transaction type: <builtin: select only>
scaling factor: 10
query mode: prepared
number of clients: 1
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 4321
number of failed transactions: 0 (0.000%)
latency average = 0.200 ms
initial connection time = 7.123 ms
tps = 4987.250000 (without initial connection time)
`
	churn := strings.NewReplacer("initial connection time = 7.123 ms", "average connection time = 8.750 ms",
		"without initial connection time", "including reconnection times").Replace(report)
	for name, text := range map[string]string{"held": report, "churn": churn} {
		got, err := parsePgbench([]byte(text))
		if want := (outcome{units: 4321, rate: 4987.25}); got != want || err != nil {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	for name, text := range map[string]string{
		"nothing":  "",
		"failures": strings.Replace(report, "failed transactions: 0", "failed transactions: 12", 1),
		"no work":  strings.Replace(report, "processed: 4321", "processed: 0", 1),
		"no rate":  strings.Replace(report, "tps", "tpm", 1),
	} {
		if got, err := parsePgbench([]byte(text)); err == nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		}
	}
}

func TestParseSettings(t *testing.T) {
	full, err := parseSettings(nil)
	if err != nil || len(full.targets) != len(targets()) || len(full.workloads) != len(workloads()) || full.rounds < 5 {
		t.Errorf("everything: got %+v, %v", full, err)
	}
	quick, err := parseSettings([]string{"-quick", "-rounds", "1"})
	if err != nil || quick.rounds != 1 || quick.sessions() != 1200 || len(quick.targets) >= len(full.targets) {
		t.Errorf("quick: got %+v, %v", quick, err)
	}
	some, err := parseSettings([]string{"-quick", "-workloads", "prep64", "-targets", "haproxy, direct-tls"})
	if got, want := names(some.targets), []string{"direct-tls", "haproxy"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("some: got %v, %v, want %v", got, err, want)
	}
	for _, bad := range [][]string{
		{"-targets", "direct-tls,odyssey"}, {"-workloads", "prep2"}, {"-rounds", "-1"}, {"prep1"},
	} {
		if _, err := parseSettings(bad); err == nil {
			t.Errorf("%v: want an error", bad)
		}
	}
}

// TestPlan wants every combination that makes sense once in each round, in an order that the seed decides.
func TestPlan(t *testing.T) {
	s, err := parseSettings([]string{"-rounds", "2", "-seed", "7"})
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	var order []string
	for _, step := range plan(s) {
		count[step.workload.name+" "+step.target.name]++
		order = append(order, step.String())
	}
	for combination, want := range map[string]int{
		"prep1 direct-tls": 2, "prep1 haproxy": 2, "prep1 pgbouncer-norecycle": 0, "churn8 pgbouncer-norecycle": 2,
		"idle1000 pgreplicaproxy": 1, "idle1000 direct-tls": 0, "idle1000 pgbouncer-norecycle": 0,
	} {
		if got := count[combination]; got != want {
			t.Errorf("%s: got %d steps, want %d", combination, got, want)
		}
	}
	same := func(seed uint64) bool {
		s.seed = seed
		var again []string
		for _, step := range plan(s) {
			again = append(again, step.String())
		}
		return slices.Equal(order, again)
	}
	if !same(7) || same(8) {
		t.Error("the seed does not decide the order")
	}
}
