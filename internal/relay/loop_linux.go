//go:build !relay_goroutines

package relay

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/replicon/pgreplicaproxy/internal/cores"
)

// loop is one epoll instance (epoll(7)) and the goroutine that serves its sessions. Everything of a session is touched by
// that goroutine alone; others only leave work in the inbox. The buffers are the loop's: a session holds none while nothing
// waits to be written.
type loop struct {
	epoll, wakeup int // descriptors

	mu    sync.Mutex
	inbox []func()
	woken bool // a wake-up is under way

	legs     []*leg    // by descriptor
	gathered []*leg    // see leg.heard
	released time.Time // when those were looked at
	sessions atomic.Int64
	started  bool // a goroutine, since others had their turn
	stopping bool
	done     chan struct{}

	raw   [rawBuffer]byte // as read from a socket
	clear []byte          // decrypted
	wire  []byte          // encrypted, to be written
}

const (
	// rawBuffer is how much is read from a socket at a time.
	rawBuffer = 64 << 10
	// readTurn is how many full buffers one socket may fill before the others have their turn.
	readTurn = 4
	// eventBatch is how many events are taken from the kernel at a time.
	eventBatch = 128
)

// newLoop starts a loop, which brings the processor of Go's scheduler that it is going to hold.
func newLoop() (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, os.NewSyscallError("eventfd", err)
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wakeup)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wakeup, &event); err != nil {
		_ = unix.Close(epoll)
		_ = unix.Close(wakeup)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	l := &loop{
		epoll: epoll, wakeup: wakeup, done: make(chan struct{}),
		clear: make([]byte, 0, 2*rawBuffer), wire: make([]byte, 0, 2*rawBuffer),
	}
	cores.Bring(1)
	go l.run()
	return l, nil
}

// post leaves work for the loop's goroutine. Work that comes after the loop has stopped is dropped.
func (l *loop) post(work func()) {
	l.mu.Lock()
	l.inbox = append(l.inbox, work)
	wake := !l.woken
	l.woken = true
	l.mu.Unlock()
	if wake {
		_, _ = unix.Write(l.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail: the counter is far from full
	}
}

// run serves events until stop was posted.
func (l *loop) run() {
	defer close(l.done)
	events := make([]unix.EpollEvent, eventBatch)
	for !l.stopping {
		n, err := l.wait(events)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // only a wrong descriptor can be the reason
		}
		work := false
		for _, e := range events[:max(n, 0)] {
			switch {
			case int(e.Fd) == l.wakeup:
				work = true
			case l.legs[e.Fd] != nil: // not closed by an event before
				l.legs[e.Fd].event(e.Events)
			}
		}
		if work {
			l.work()
		}
		if len(l.gathered) > 0 {
			l.releaseQuiet()
		}
		if l.started { // else it would wait until another thread has found it, which takes longer than what it does
			l.started = false
			runtime.Gosched()
		}
	}
	_ = unix.Close(l.epoll)
	_ = unix.Close(l.wakeup)
}

// wait waits for events, for as long as it takes; the first 10 ms of it keeping the processor of Go's scheduler (its P) that
// the loop runs on. To give it back costs a busy loop half as much again as its other work: since Go 1.26 the runtime's
// monitor takes the P of a goroutine that has made system calls for 10 ms away in each further one, and stays awake for it.
// The goroutines of the logins do not miss it, because each loop has brought one. It returns early while legs are gathered.
func (l *loop) wait(events []unix.EpollEvent) (int, error) {
	if len(l.gathered) > 0 {
		return waitBriefly(l.epoll, events, int(gatherTime.Milliseconds()))
	}
	n, err := waitBriefly(l.epoll, events, briefly)
	if err != nil { // others have had their turn
		n, _ = waitBriefly(l.epoll, events, briefly)
	}
	if n > 0 {
		return n, nil
	}
	return unix.EpollWait(l.epoll, events, -1)
}

// work does what was left in the inbox.
func (l *loop) work() {
	var count [8]byte
	_, _ = unix.Read(l.wakeup, count[:])
	l.mu.Lock()
	inbox := l.inbox
	l.inbox, l.woken = nil, false
	l.mu.Unlock()
	for _, f := range inbox {
		f()
	}
}

// stop ends the loop, which must have no sessions, and waits for its goroutine.
func (l *loop) stop() {
	l.post(func() { l.stopping = true })
	<-l.done
	cores.Bring(-1)
}

// register makes room for a leg by its descriptor.
func (l *loop) register(g *leg) {
	for len(l.legs) <= g.fd {
		l.legs = append(l.legs, nil)
	}
	l.legs[g.fd] = g
}
