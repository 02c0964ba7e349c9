//go:build linux

package main

import (
	"os"
	"testing"
	"time"
)

func TestParseProcess(t *testing.T) {
	const line = "4242 (a) b (c)) S 17 4242 4242 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 3 0 100 1 2"
	got, err := parseProcess([]byte(line))
	want := process{parent: 17, own: 2 * time.Second, reaped: 500 * time.Millisecond}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 (x) S one 4242 4242 0 -1 4194560 1 2 3 4 150 50 30 20 20"} {
		if got, err := parseProcess([]byte(bad)); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, got)
		}
	}
}

func TestParseCPU(t *testing.T) {
	busy, total, err := parseCPU([]byte("cpu  100 20 30 400 50 6 7 8 99 99\ncpu0 1 1 1 1 1 1 1 1 1 1\n"))
	if busy != 171*tick || total != 621*tick || err != nil {
		t.Errorf("got %v of %v, %v, want %v of %v", busy, total, err, 171*tick, 621*tick)
	}
	for _, bad := range []string{"", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu a b c d e f g h"} {
		if _, _, err := parseCPU([]byte(bad)); err == nil {
			t.Errorf("%q: want an error", bad)
		}
	}
}

func TestParseSchedstat(t *testing.T) {
	if got, err := parseSchedstat([]byte("1500000 200 3\n")); got != 1500*time.Microsecond || err != nil {
		t.Errorf("got %v, %v, want 1.5ms", got, err)
	}
	for _, bad := range []string{"", "0", "x 1 2"} {
		if got, err := parseSchedstat([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestMemoryField(t *testing.T) {
	const status = "VmPeak:\t  300 kB\nVmRSS:\t   12 kB\nThreads:\t1\n"
	if got, err := memoryField([]byte(status), "VmRSS"); got != 12*1024 || err != nil {
		t.Errorf("got %d, %v, want %d", got, err, 12*1024)
	}
	if got, err := memoryField([]byte(status), "Threads"); err == nil {
		t.Errorf("got %d for what is no memory, want an error", got)
	}
}

// TestTreeTime: time must neither be lost nor counted twice when a process ends.
func TestTreeTime(t *testing.T) {
	processes := map[int]process{
		1:  {own: 100},
		10: {parent: 1, own: 1, reaped: 2},
		11: {parent: 10, own: 4},
		12: {parent: 11, own: 8},
		20: {parent: 1, own: 1000},
	}
	if got, want := treeTime(processes, 10), time.Duration(15); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
	delete(processes, 12)
	processes[11] = process{parent: 10, own: 4, reaped: 8}
	if got, want := treeTime(processes, 10), time.Duration(15); got != want {
		t.Errorf("after the end of a child: got %d, want %d", got, want)
	}
}

func TestOthers(t *testing.T) {
	before := counters{ours: 10, busy: 50, total: 100}
	for _, test := range []struct {
		after counters
		want  float64
	}{
		{counters{ours: 40, busy: 130, total: 300}, 0.25},
		{counters{ours: 140, busy: 130, total: 300}, 0},
		{before, 0},
	} {
		if got := test.after.since(before).others(); got != test.want {
			t.Errorf("%+v: got %v, want %v", test.after, got, test.want)
		}
	}
}

// TestReadCounters reads this machine's real files: work of this process must show as ours and as the process's.
func TestReadCounters(t *testing.T) {
	before, err := readCounters(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for sum, start := 0, time.Now(); time.Since(start) < 60*time.Second; sum++ {
		after, err := readCounters(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if used := after.since(before); used.proxy > 0 && used.ours > 0 && used.busy > 0 && used.total > 0 {
			return
		}
	}
	t.Error("a busy minute was not counted")
}

func TestResidentMemory(t *testing.T) {
	if got, err := residentMemory(os.Getpid()); got < 1<<20 || err != nil {
		t.Errorf("got %d bytes, %v, want more than a MiB", got, err)
	}
}
