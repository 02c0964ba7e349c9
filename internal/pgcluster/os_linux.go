package pgcluster

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkSupported returns why this package cannot work on this system.
func checkSupported() error { return nil }

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// attributes start a program as the account and in a process group of its own, so that Ctrl-C in a terminal reaches
// this process alone, which then ends the servers in its own order. The thread that starts it must live as long as the
// program when onDeath is set: the kernel sends that signal when the thread ends (prctl(2), PR_SET_PDEATHSIG).
func (a account) attributes(onDeath syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: onDeath}
	if a != (account{}) {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// signalProcess sends a signal to a process, or to a process group when pid is negative. One that is gone is no error.
func signalProcess(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
		return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
	}
	return nil
}

// processesOf returns the live processes that run the program with dir as working directory. PostgreSQL makes its
// data directory the working directory of every process of a server, so this finds also those whose postmaster has
// died, which no parent or process group would lead to. Zombies are not listed.
func processesOf(program, dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && procLink(pid, "cwd") == dir && procLink(pid, "exe") == program {
			pids = append(pids, pid)
		}
	}
	return pids
}

// procLink returns where a link in /proc/<pid> leads, also when that was deleted meanwhile, or "".
func procLink(pid int, name string) string {
	target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(target, " (deleted)")
}

// isHalted tells whether a process is stopped by a signal or gone (proc(5), /proc/pid/stat, third field; the second is
// in parentheses and may hold any character).
func isHalted(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	_, rest, found := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return found && len(rest) > 0 && bytes.IndexByte([]byte("TtZX"), rest[0]) >= 0
}

// removeSharedMemory removes a System V shared memory segment, which outlives a server that was killed.
func removeSharedMemory(id int) error {
	_, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	if err == unix.EINVAL || err == unix.EIDRM {
		return nil // it is gone already
	}
	return err
}

// checkReachable says which directory on the way to path keeps the account out, judged by its mode bits.
func (a account) checkReachable(path string) error {
	if a == (account{}) {
		return nil
	}
	for dir := path; ; dir = filepath.Dir(dir) {
		var stat syscall.Stat_t
		if err := syscall.Stat(dir, &stat); err != nil {
			return &os.PathError{Op: "stat", Path: dir, Err: err}
		}
		mask := uint32(0o001)
		switch {
		case int(stat.Uid) == a.uid:
			mask = 0o100
		case int(stat.Gid) == a.gid:
			mask = 0o010
		}
		if stat.Mode&mask == 0 {
			return fmt.Errorf("user %q cannot enter %q, mode %04o: choose another directory, or let it in",
				a.name, dir, stat.Mode&0o7777)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
