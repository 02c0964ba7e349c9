//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// tick is the unit of CPU times in the stat files of /proc: USER_HZ is 100 wherever Go runs (proc(5), time(7)).
const tick = 10 * time.Millisecond

// counters are CPU times since some moment in the past.
type counters struct {
	proxy time.Duration // of the proxy, all its threads
	ours  time.Duration // of this process and all below it: clients, proxy, server; those that ended meanwhile too
	busy  time.Duration // of all that runs on the machine, with what the hypervisor took
	total time.Duration // that there was
}

// readCounters reads them all; pid is that of the proxy, or 0.
func readCounters(pid int) (counters, error) {
	var c counters
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c, err
	}
	if c.busy, c.total, err = parseCPU(stat); err != nil {
		return c, err
	}
	processes, err := readProcesses()
	if err != nil {
		return c, err
	}
	c.ours = treeTime(processes, os.Getpid())
	if pid != 0 {
		c.proxy, err = cpuTime(pid)
	}
	return c, err
}

// cpuTime returns the CPU time of a process, as the scheduler counts it: the 10 ms of the other files are too coarse for
// short runs. It adds up the threads that are alive; no proxy here ends any while it has work.
func cpuTime(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("process %d is gone, or the kernel does not count its CPU time (CONFIG_SCHED_INFO)", pid)
	}
	var sum time.Duration
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			return 0, err
		}
		spent, err := parseSchedstat(stat)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", thread, err)
		}
		sum += spent
	}
	return sum, nil
}

// parseSchedstat reads a /proc/<pid>/task/<tid>/schedstat, whose first field is the time spent on a CPU in nanoseconds
// (Documentation/scheduler/sched-stats.rst of the kernel).
func parseSchedstat(stat []byte) (time.Duration, error) {
	spent, _, found := bytes.Cut(stat, []byte(" "))
	if !found {
		return 0, fmt.Errorf("not understood: %q", stat)
	}
	n, err := strconv.ParseInt(string(spent), 10, 64)
	return time.Duration(n), err
}

// since returns what was used between two readings.
func (c counters) since(before counters) counters {
	return counters{
		proxy: c.proxy - before.proxy, ours: c.ours - before.ours, busy: c.busy - before.busy, total: c.total - before.total,
	}
}

// others is the share of all CPU time that others used. The parts are not read at the same instant, so it can come out
// slightly below zero; then it is 0.
func (c counters) others() float64 {
	if c.total <= 0 {
		return 0
	}
	return max(0, float64(c.busy-c.ours)/float64(c.total))
}

// process is what /proc/<pid>/stat says.
type process struct {
	parent int
	own    time.Duration // CPU time of its threads, user and system
	reaped time.Duration // the same of its descendants that have ended and were waited for
}

// readProcesses reads every process there is.
func readProcesses() (map[int]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	processes := make(map[int]process)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // no process
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		if processes[pid], err = parseProcess(stat); err != nil {
			return nil, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	return processes, nil
}

// treeTime adds up the CPU time of a process and everything below it, alive or reaped. A process that ends between two
// readings moves from its own time to that of its parent, so the sum does not lose it.
func treeTime(processes map[int]process, root int) time.Duration {
	children := make(map[int][]int)
	for pid, p := range processes {
		children[p.parent] = append(children[p.parent], pid)
	}
	var sum time.Duration
	for left := []int{root}; len(left) > 0; {
		pid := left[len(left)-1]
		left = append(left[:len(left)-1], children[pid]...)
		sum += processes[pid].own + processes[pid].reaped
	}
	return sum
}

// parseProcess reads a /proc/<pid>/stat (proc(5)): fields 4, ppid, and 14 to 17, utime, stime, cutime, cstime. The second
// field is in parentheses and may hold any character.
func parseProcess(stat []byte) (process, error) {
	const first = 3 // the number of the field that follows the parentheses
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 17-first+1 {
		return process{}, errors.New("too few fields")
	}
	parent, err := strconv.Atoi(string(fields[4-first]))
	if err != nil {
		return process{}, err
	}
	times, err := ticks(fields[14-first : 17-first+1])
	if err != nil {
		return process{}, err
	}
	return process{parent: parent, own: times[0] + times[1], reaped: times[2] + times[3]}, nil
}

// parseCPU reads the first line of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal. What
// follows is part of the first two.
func parseCPU(stat []byte) (busy, total time.Duration, err error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 9 || string(fields[0]) != "cpu" {
		return 0, 0, fmt.Errorf("/proc/stat: not understood: %q", line)
	}
	times, err := ticks(fields[1:9])
	if err != nil {
		return 0, 0, fmt.Errorf("/proc/stat: %w", err)
	}
	for i, t := range times {
		total += t
		if i != 3 && i != 4 { // idle, iowait
			busy += t
		}
	}
	return busy, total, nil
}

func ticks(fields [][]byte) ([]time.Duration, error) {
	times := make([]time.Duration, len(fields))
	for i, field := range fields {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return nil, err
		}
		times[i] = time.Duration(n) * tick
	}
	return times, nil
}

// residentMemory returns the memory that a process has in RAM, in bytes.
func residentMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return memoryField(status, "VmRSS")
}

// machineMemory returns a field of /proc/meminfo, in bytes.
func machineMemory(field string) (int64, error) {
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return memoryField(meminfo, field)
}

// memoryField finds a line such as "VmRSS:    10240 kB" and returns the bytes.
func memoryField(content []byte, field string) (int64, error) {
	for line := range bytes.Lines(content) {
		words := bytes.Fields(line)
		if len(words) == 3 && string(words[0]) == field+":" && string(words[2]) == "kB" {
			kib, err := strconv.ParseInt(string(words[1]), 10, 64)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc", field)
}
