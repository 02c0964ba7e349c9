package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// Address names a socket that a program listens on, across its processes.
type Address struct {
	// Network and Address are in the terms of net.Listen and the words of the program's configuration.
	Network, Address string
	// Nth tells apart sockets with the same address, which only port 0 allows.
	Nth int
}

// Sockets are the listening sockets that this process was given when it was started. The zero value holds none. They are for
// one goroutine at a time.
type Sockets struct {
	inherited map[Address]net.Listener // of the predecessor, those taken included
	taken     map[Address]bool
	activated []net.Listener // of systemd
}

// Predecessor is the program that started this process to be replaced by it. It goes on with the sessions that it has.
type Predecessor struct {
	// Note is what it had to say: see Successor.Note.
	Note  string
	ready *os.File
}

// successorVariable tells a successor what its descriptors are, in JSON.
const successorVariable = "PGREPLICAPROXY_SUCCESSOR"

// legacy is the value of successorVariable. Descriptor 3 is where to report, and the listeners follow in their order.
type legacy struct {
	Listeners []Address
	Note      string
}

// firstDescriptor is the first that exec passes on beside standard input, output and error, and that systemd passes (sd_listen_fds(3)).
const firstDescriptor = 3

// Inherit returns what this process was given; nil for the predecessor if there is none. It is called once, before anything
// opens files, and removes from the environment what would tell the same to other processes.
func Inherit() (*Sockets, *Predecessor, error) {
	if text, ok := os.LookupEnv(successorVariable); ok {
		_ = os.Unsetenv(successorVariable)
		return inheritFromPredecessor(text)
	}
	s := new(Sockets)
	for _, f := range activation.Files(true) {
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, nil, fmt.Errorf("socket %q of systemd: %w", f.Name(), err)
		}
		_ = f.Close()
		s.activated = append(s.activated, ln)
	}
	return s, nil, nil
}

func inheritFromPredecessor(text string) (*Sockets, *Predecessor, error) {
	var from legacy
	if err := json.Unmarshal([]byte(text), &from); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", successorVariable, err)
	}
	s := &Sockets{inherited: make(map[Address]net.Listener), taken: make(map[Address]bool)}
	for i, address := range from.Listeners {
		f := inheritedFile(firstDescriptor+1+i, address.Address)
		ln, err := net.FileListener(f)
		if err != nil {
			return nil, nil, fmt.Errorf("socket %s of the predecessor: %w", address.Address, err)
		}
		_ = f.Close()
		s.inherited[address] = ln
	}
	return s, &Predecessor{Note: from.Note, ready: inheritedFile(firstDescriptor, "predecessor")}, nil
}

func inheritedFile(fd int, name string) *os.File {
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// Ready tells the predecessor that it is replaced. It must not be called twice.
func (p *Predecessor) Ready() error {
	_, err := p.ready.WriteString(readyWord)
	return errors.Join(err, p.ready.Close())
}

// Take returns the socket for an address, which is the caller's from here on, nil if there is none. Closing one of the
// predecessor's leaves a socket file alone until Keep was called.
func (s *Sockets) Take(a Address) net.Listener {
	if ln, ok := s.inherited[a]; ok && !s.taken[a] {
		s.taken[a] = true
		return ln
	}
	for i, ln := range s.activated {
		if same(a, ln.Addr()) {
			s.activated = slices.Delete(s.activated, i, i+1)
			return ln
		}
	}
	return nil
}

// same reports whether a socket listens on what a names. A host name is looked up.
func same(a Address, addr net.Addr) bool {
	switch addr := addr.(type) {
	case *net.UnixAddr:
		return a.Network == "unix" && a.Address == addr.Name
	case *net.TCPAddr:
		want, err := net.ResolveTCPAddr("tcp", a.Address)
		if a.Network != "tcp" || err != nil || want.Port != addr.Port {
			return false
		}
		return want.IP.Equal(addr.IP) || everyInterface(want.IP) && everyInterface(addr.IP)
	}
	return false
}

func everyInterface(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }

// Unused returns an error that names the sockets of systemd which nobody took: clients would wait there for ever.
func (s *Sockets) Unused() error {
	var unused []string
	for _, ln := range s.activated {
		unused = append(unused, ln.Addr().String())
	}
	if len(unused) == 0 {
		return nil
	}
	return fmt.Errorf("systemd listens on %s, and no listen block does: make the socket unit and the configuration agree",
		strings.Join(unused, ", "))
}

// Keep makes the predecessor's sockets this process's own, once it has let go of them: from now on a socket file goes with
// its listener. What nobody took is closed.
func (s *Sockets) Keep() {
	for address, ln := range s.inherited {
		if unix, ok := ln.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(true)
		}
		if !s.taken[address] {
			_ = ln.Close()
		}
	}
	s.inherited = nil
}
