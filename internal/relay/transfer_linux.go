//go:build !relay_goroutines

package relay

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// readNow reads from a non-blocking descriptor.
func readNow(fd int, p []byte) (int, error) { return transfer(unix.SYS_READ, fd, p) }

// writeNow writes to a non-blocking descriptor.
func writeNow(fd int, p []byte) (int, error) { return transfer(unix.SYS_WRITE, fd, p) }

// transfer makes a system call that cannot block, so Go's scheduler need not hear of it: that costs as much as a small read.
// It is repeated when a signal has interrupted it.
func transfer(call uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// briefly is how long waitBriefly may wait, in milliseconds: about as long as Go lets a goroutine run before others have their turn.
const briefly = 10

// waitBriefly waits for events of an epoll instance, not longer than a goroutine may run. For Go's scheduler it is one that
// runs; to stop the world, or give others their turn, it sends such a one a signal, which ends the wait with EINTR.
func waitBriefly(epoll int, events []unix.EpollEvent, milliseconds int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(milliseconds), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
