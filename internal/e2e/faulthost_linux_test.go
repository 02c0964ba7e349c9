package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// remoteHost is a machine of its own as far as the network goes: a network namespace, joined with ours by a pair of virtual
// interfaces, whose packets can be made to vanish without a trace. It takes root to make one.
type remoteHost struct {
	t            *testing.T
	ours, theirs string // addresses
	work         chan func()
}

// startHost makes a host until the end of the test, or of the process: nothing else names its namespace.
func startHost(t *testing.T) *remoteHost {
	t.Helper()
	n := rand.IntN(1 << 15) // of the /30 networks in 198.18.0.0/15, which is for tests (RFC 2544)
	network := fmt.Sprintf("198.%d.%d.", 18+n>>14, n>>6&0xff)
	h := &remoteHost{
		t: t, ours: network + fmt.Sprint(n&0x3f<<2+1), theirs: network + fmt.Sprint(n&0x3f<<2+2),
		work: make(chan func()),
	}
	ready := make(chan error)
	go h.live(ready)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	var thread int
	h.do(func() { thread = unix.Gettid() })
	inner, outer := fmt.Sprintf("prpi%d", n), fmt.Sprintf("prpo%d", n)
	ip(t, "link", "add", outer, "type", "veth", "peer", "name", inner)
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", outer).Run()
		close(h.work)
	})
	ip(t, "link", "set", inner, "netns", fmt.Sprint(thread))
	ip(t, "addr", "add", h.ours+"/30", "dev", outer)
	ip(t, "link", "set", outer, "up")
	h.do(func() {
		ip(t, "addr", "add", h.theirs+"/30", "dev", inner)
		ip(t, "link", "set", inner, "up")
	})
	return h
}

// live runs what it is given in the namespace. It keeps the thread, which has left ours for good and ends with it.
func (h *remoteHost) live(ready chan<- error) {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	ready <- err
	if err != nil {
		return
	}
	for do := range h.work {
		do()
	}
}

// do runs something in the namespace. What it opens there stays there.
func (h *remoteHost) do(what func()) {
	done := make(chan struct{})
	h.work <- func() { defer close(done); what() }
	<-done
}

// blackHole drops every packet between the host and us, heal lets them pass again.
func (h *remoteHost) blackHole() {
	h.do(func() { ip(h.t, "route", "replace", "blackhole", h.ours+"/32") })
}

func (h *remoteHost) heal() { h.do(func() { ip(h.t, "route", "del", "blackhole", h.ours+"/32") }) }

// listen opens a listener on the host.
func (h *remoteHost) listen() (listener net.Listener) {
	h.t.Helper()
	var err error
	h.do(func() { listener, err = net.Listen("tcp", net.JoinHostPort(h.theirs, "0")) })
	if err != nil {
		h.t.Fatal(err)
	}
	return listener
}

// connect opens a connection from the host.
func (h *remoteHost) connect(address string) (conn net.Conn, err error) {
	h.do(func() { conn, err = net.Dial("tcp", address) })
	return conn, err
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// cuttable is a way that can be cut so that nothing and nobody answers any more. For root it leads through a host whose
// packets vanish; others get a line that falls silent, where the kernel still acknowledges what is sent.
type cuttable struct {
	address   string                   // of a way to a server
	dial      func() (net.Conn, error) // of a way from clients
	cut, heal func()
}

// startCuttable opens a way to a server.
func startCuttable(t *testing.T, s *pgcluster.Server) cuttable {
	t.Helper()
	if os.Geteuid() != 0 {
		return startMutable(t, func() (net.Conn, error) { return net.Dial("tcp", serverAddress(s)) })
	}
	h := startHost(t)
	// The socket file leads back to the server without any network.
	l := startLineOn(t, h.listen(), func() (net.Conn, error) {
		return net.Dial("unix", fmt.Sprintf("%s/.s.PGSQL.%d", s.SocketDir, s.Port))
	})
	return cuttable{address: l.address, cut: h.blackHole, heal: h.heal}
}

// startCuttableTo opens a way from clients to the program, whose listener must be on every address.
func startCuttableTo(t *testing.T, p *program) cuttable {
	t.Helper()
	if os.Geteuid() != 0 {
		return startMutable(t, func() (net.Conn, error) { return net.Dial("tcp", p.addr) })
	}
	h := startHost(t)
	address := fmt.Sprintf("%s:%d", h.ours, localPortOf(p.addr))
	return cuttable{dial: func() (net.Conn, error) { return h.connect(address) }, cut: h.blackHole, heal: h.heal}
}

// startMutable opens a way that falls silent.
func startMutable(t *testing.T, to func() (net.Conn, error)) cuttable {
	t.Helper()
	t.Log("not root: a line that falls silent stands in for a black hole")
	l := startLineTo(t, to)
	return cuttable{
		address: l.address, dial: func() (net.Conn, error) { return net.Dial("tcp", l.address) },
		cut: func() { l.set(lineFault{silent: true}) }, heal: func() { l.set(lineFault{}) },
	}
}
