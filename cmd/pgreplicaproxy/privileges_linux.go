package main

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// harden keeps the memory of the process, where secrets are, from core dumps and from other processes of its user, and keeps
// the process from gaining privileges by what it executes (prctl(2)).
//
// There is no Landlock and no seccomp filter here: a reload may name any file, and an upgrade executes a new one, so rules
// that hold for the life of the process would have to allow nearly everything. packaging/pgreplicaproxy.service has them
// from outside.
func harden() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	// Of the process: a program that core_pattern names would get a dump in spite of the limit.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	// Of each thread. Programs with cgo, such as those built with the race detector, cannot do it for all (syscall.ENOTSUP).
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 && !errors.Is(errno, syscall.ENOTSUP) {
		return fmt.Errorf("forbid new privileges: %w", errno)
	}
	return nil
}
