//go:build !linux

package pgcluster

import (
	"errors"
	"syscall"
)

// checkSupported returns why this package cannot work on this system. Start asks it before it calls anything below.
func checkSupported() error {
	return errors.New("throwaway clusters need Linux, where /proc shows the processes of a server")
}

const (
	sigStop = syscall.Signal(-1)
	sigCont = syscall.Signal(-1)
)

func (account) attributes(syscall.Signal) *syscall.SysProcAttr { return nil }
func (account) checkReachable(string) error                    { return checkSupported() }
func signalProcess(int, syscall.Signal) error                  { return checkSupported() }
func processesOf(_, _ string) []int                            { return nil }
func isHalted(int) bool                                        { return false }
func removeSharedMemory(int) error                             { return checkSupported() }
