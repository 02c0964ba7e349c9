package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// nameServer is a DNS server that knows one name, over UDP (RFC 1035).
type nameServer struct {
	conn net.PacketConn

	mu        sync.Mutex
	addresses []netip.Addr
	missing   bool // answers NXDOMAIN
	silent    bool
	asked     int
}

// startNameServer serves until the end of the test.
func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return s
}

func (s *nameServer) serve() {
	packet := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		if answer := s.answer(packet[:n]); answer != nil {
			_, _ = s.conn.WriteTo(answer, from)
		}
	}
}

// answer answers a query for the addresses of whatever name, nil for not at all.
func (s *nameServer) answer(query []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	const header = 12
	end := header
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root label, type and class
	if s.silent || end > len(query) {
		return nil
	}
	answer := append([]byte(nil), query[:end]...)
	copy(answer[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // a response, recursion desired and available, one question
	if s.missing {
		answer[3] |= 3
		return answer
	}
	if query[end-3] != 1 { // A; there are no others
		return answer
	}
	answer[7] = byte(len(s.addresses))
	for _, a := range s.addresses {
		answer = append(answer, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4) // the question's name, A, IN, for a second
		answer = append(answer, a.AsSlice()...)
	}
	return answer
}

// know sets what the server answers from now on.
func (s *nameServer) know(missing, silent bool, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing, s.silent, s.addresses = missing, silent, nil
	for _, a := range addresses {
		s.addresses = append(s.addresses, netip.MustParseAddr(a))
	}
}

// waitAsked waits until the server was asked a few times more.
func (s *nameServer) waitAsked(t *testing.T, times int) {
	t.Helper()
	count := func() int { s.mu.Lock(); defer s.mu.Unlock(); return s.asked }
	for before, deadline := count(), time.Now().Add(patience); count() < before+times; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the name server was asked %d times more, want %d", count()-before, times)
		}
	}
}

// The servers are the addresses of a name. One that is gone from it is left in order; that the name is gone, or that nobody
// answers for it, changes nothing, and keeps nobody from seeing that a server has crashed.
func TestFault26Names(t *testing.T) {
	r := startServers(t, faultSetup{async: true})
	address := map[*pgcluster.Server]string{r.db1: "127.0.0.2", r.db2: "127.0.0.3", r.db3: "127.0.0.4"}
	port := lowPort(t)
	for s, ip := range address {
		listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, port))
		r.must(err)
		startLineOn(t, listener, func() (net.Conn, error) { return net.Dial("tcp", serverAddress(s)) })
	}
	names := startNameServer(t)
	names.know(false, false, "127.0.0.2", "127.0.0.3", "127.0.0.4")
	r.serve(faultSetup{cluster: fmt.Sprintf(`cluster "main" {
  hold_primary = "0s"
  hold_replica = "0s"
  slow_start   = "0s"
  monitor {
    password = file("monitor.password")
    interval = "200ms"
  }
  backend "db" {
    address    = "db.test:%d"
    resolve    = "200ms"
    dns_server = %q
  }
}
`, port, names.conn.LocalAddr())})
	r.load = startMix(t, r.p, r.db1, map[clientKind]int{writing: 8, idling: 4, reading: 8})
	_ = sessionOn(t, r.p, "app_replica", r.db3).Close(testContext(t))

	at := r.load.now()
	names.know(true, false)
	names.waitAsked(t, 5)
	names.know(false, true)
	names.waitAsked(t, 2)
	for _, s := range r.c.Servers() {
		for _, ended := range r.load.endings(s, at) {
			t.Errorf("a %s session on %s ended: %v", ended.kind, s.Name, ended.err)
		}
	}
	at = r.load.now()
	r.must(r.db1.KillAll()) // while the name server is silent
	r.fenced(r.db1, at, crashGoal)
	r.must(r.db1.Start(testContext(t)))
	r.load.waitAll(r.db1)

	at = r.load.now()
	names.know(false, false, "127.0.0.2", "127.0.0.3")
	r.load.wait("nobody is left on db3", func() bool { return r.load.open(r.db3) == 0 })
	r.waitPlaces("app_replica", r.db2) // only now: a session of its own that is moved away cannot say where it is
	r.wantUndisturbed(at, writing)
	names.know(false, false, "127.0.0.2", "127.0.0.3", "127.0.0.4")
	_ = sessionOn(t, r.p, "app_replica", r.db3).Close(testContext(t))
	r.finish(r.db1)
}
