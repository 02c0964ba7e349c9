package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/handover"
)

// socketKey names a listening socket across changes of the configuration and of the process.
type socketKey = handover.Address

// keys names the sockets of a configuration, in its order.
func keys(listeners []listenerConfig) []socketKey {
	seen := make(map[socketKey]int)
	list := make([]socketKey, len(listeners))
	for i, l := range listeners {
		first := socketKey{Network: l.Network, Address: l.Address}
		list[i] = socketKey{Network: l.Network, Address: l.Address, Nth: seen[first]}
		seen[first]++
	}
	return list
}

// socket is a listening socket that stays open while those who serve on it change: its server's listener is a lease on it.
type socket struct {
	net.Listener
	lease *lease // nil for none
}

// let returns a listener for the next server, once the one before has accepted its last connection.
func (s *socket) let() *lease {
	s.endLease()
	s.lease = &lease{Listener: s.Listener}
	return s.lease
}

func (s *socket) endLease() {
	if s.lease != nil {
		_ = s.lease.Close()
	}
}

// close closes the socket, and its lease before it.
func (s *socket) close() {
	s.endLease()
	_ = s.Listener.Close()
}

// lease is a listener whose Close leaves the socket open for another.
type lease struct {
	net.Listener
	accepting sync.Mutex
	closed    atomic.Bool
}

// Accept waits for the next connection, or for Close.
func (l *lease) Accept() (net.Conn, error) {
	l.accepting.Lock()
	defer l.accepting.Unlock()
	if l.closed.Load() {
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, net.ErrClosed
	}
	return conn, err
}

// Close ends Accept. It returns when no Accept is under way any more.
func (l *lease) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	waker, ok := l.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return l.Listener.Close()
	}
	err := waker.SetDeadline(time.Unix(1, 0))
	l.accepting.Lock()
	defer l.accepting.Unlock()
	return errors.Join(err, waker.SetDeadline(time.Time{}))
}

// sockets are the listening sockets of the program.
type sockets map[socketKey]*socket

// bindError is an address that cannot be listened on.
type bindError struct {
	index int // of the listener
	err   error
}

// Error returns the text of the error within.
func (e *bindError) Error() string { return e.err.Error() }

// listeners are the sockets as a successor is given them.
func (s sockets) listeners() map[handover.Address]net.Listener {
	all := make(map[handover.Address]net.Listener, len(s))
	for key, socket := range s {
		all[key] = socket.Listener
	}
	return all
}

// bind opens those of listeners that are not open yet, or takes what self was given: all of them, or none. An error is a
// *bindError.
func (s sockets) bind(listeners []listenerConfig, self *process) (opened sockets, err error) {
	opened = make(sockets)
	for i, key := range keys(listeners) {
		if s[key] != nil {
			continue
		}
		ln, err := self.listen(key, listeners[i])
		if err != nil {
			opened.close()
			return nil, &bindError{i, s.explainBind(listeners[i], err)}
		}
		opened[key] = &socket{Listener: ln}
	}
	return opened, nil
}

// explainBind tells an address that another program has from one that this program itself still has.
func (s sockets) explainBind(wanted listenerConfig, err error) error {
	for key := range s {
		if wanted.overlaps(listenerConfig{Network: key.Network, Address: key.Address}) {
			return fmt.Errorf("listen on %s: this program listens on %s, and cannot move from one to the other in one step "+
				"(take %[2]s out first, or restart the program)", wanted.Address, key.Address)
		}
	}
	return err
}

// close closes every socket.
func (s sockets) close() {
	for _, socket := range s {
		socket.close()
	}
}
