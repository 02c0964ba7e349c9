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
