package discovery

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

// dnsServer answers for every name, over UDP, what a test wants.
type dnsServer struct {
	conn net.PacketConn

	mu        sync.Mutex
	addresses []netip.Addr
	code      byte // RCODE of RFC 1035, section 4.1.1
	silent    bool
	asked     int
}

const (
	serverFailure = 2
	nameError     = 3 // NXDOMAIN
)

func newDNSServer(t *testing.T, addresses ...string) *dnsServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dnsServer{conn: conn}
	s.set(0, addresses...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return s
}

// set changes the answer.
func (s *dnsServer) set(code byte, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.addresses, s.silent = code, nil, false
	for _, a := range addresses {
		s.addresses = append(s.addresses, netip.MustParseAddr(a))
	}
}

func (s *dnsServer) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *dnsServer) serve() {
	packet := make([]byte, 1500)
	for {
		n, from, err := s.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		s.mu.Lock()
		answer := s.answer(packet[:n])
		s.mu.Unlock()
		if answer != nil {
			_, _ = s.conn.WriteTo(answer, from)
		}
	}
}

// answer makes the response to a query of one question (RFC 1035, section 4).
func (s *dnsServer) answer(query []byte) []byte {
	s.asked++
	if s.silent {
		return nil
	}
	end := 12 + bytes.IndexByte(query[12:], 0) + 5 // of the question: the name, its type and class
	kind := binary.BigEndian.Uint16(query[end-4:])
	response := append([]byte(nil), query[:end]...)
	response[2], response[3] = 0x81, 0x80|s.code // a response, with recursion
	count := uint16(0)
	for _, a := range s.addresses {
		if a.Is4() != (kind == 1) || a.Is6() != (kind == 28) {
			continue
		}
		count++
		response = append(response, 0xc0, 12) // the name of the question
		response = binary.BigEndian.AppendUint16(response, kind)
		response = append(response, 0, 1, 0, 0, 0, 0) // class IN, not to be kept
		response = binary.BigEndian.AppendUint16(response, uint16(len(a.AsSlice())))
		response = append(response, a.AsSlice()...)
	}
	binary.BigEndian.PutUint16(response[6:], count)
	binary.BigEndian.PutUint32(response[8:], 0)
	return response
}

// name is one that s is asked for.
func (s *dnsServer) name() Name {
	return Name{
		Target:   backends.Target{Name: "pool", Network: "tcp", Address: "db.test:6543", TLS: backends.TLSVerifyFull, Weight: 3},
		Interval: 10 * time.Millisecond, Server: s.conn.LocalAddr().String(),
	}
}

// ask asks once and returns the addresses.
func ask(t *testing.T, n *nameSource) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	found, err := n.ask(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return addresses(found)
}

func addresses(f Found) []string {
	var list []string
	for _, t := range f.Targets {
		list = append(list, t.Address)
	}
	return list
}

// Each address is a server: known by it, reached at it, and verified by the name.
func TestAddressesAreServers(t *testing.T) {
	s := newDNSServer(t, "10.0.0.2", "10.0.0.1", "2001:db8::1", "10.0.0.1")
	found, err := (&nameSource{Name: s.name(), cluster: "main"}).ask(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := func(name, address string) backends.Target {
		return backends.Target{
			Cluster: "main", Name: name, Network: "tcp", Address: address, TLS: backends.TLSVerifyFull, ServerName: "db.test", Weight: 3,
		}
	}
	want := []backends.Target{
		server("pool-10.0.0.1", "10.0.0.1:6543"), server("pool-10.0.0.2", "10.0.0.2:6543"),
		server("pool-2001-db8--1", "[2001:db8::1]:6543"),
	}
	if !slices.Equal(found.Targets, want) {
		t.Errorf("got %+v, want %+v", found.Targets, want)
	}
	named := s.name()
	named.Target.ServerName = "certificate.test"
	if found, err := (&nameSource{Name: named}).ask(t.Context()); err != nil || found.Targets[0].ServerName != "certificate.test" {
		t.Errorf("got %+v, %v, want the name of the configuration", found, err)
	}
}

// One answer that lacks an address may be half of one; two mean it.
func TestAddressVanishes(t *testing.T) {
	s := newDNSServer(t, "10.0.0.1", "10.0.0.2")
	n := &nameSource{Name: s.name()}
	for i, step := range []struct{ answer, want []string }{
		{[]string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1"}, []string{"10.0.0.1:6543", "10.0.0.2:6543"}},
		{[]string{"10.0.0.1"}, []string{"10.0.0.1:6543"}},
		{[]string{"10.0.0.3"}, []string{"10.0.0.1:6543", "10.0.0.3:6543"}},
		{[]string{"10.0.0.3"}, []string{"10.0.0.3:6543"}},
	} {
		s.set(0, step.answer...)
		if got := ask(t, n); !slices.Equal(got, step.want) {
			t.Errorf("step %d: got %v, want %v", i, got, step.want)
		}
	}
}

// No answer, for whatever reason, is an error, and so is one that would have us watch the world.
func TestNamesWithoutAnswer(t *testing.T) {
	s := newDNSServer(t, "10.0.0.1")
	n := &nameSource{Name: s.name()}
	ask(t, n)
	var many []string
	for a := netip.MustParseAddr("10.0.0.0"); len(many) <= maxServers; a = a.Next() {
		many = append(many, a.String())
	}
	for name, change := range map[string]func(){
		"NXDOMAIN": func() { s.set(nameError) }, "SERVFAIL": func() { s.set(serverFailure) }, "no address": func() { s.set(0) },
		"silence": func() { s.set(0); s.mu.Lock(); s.silent = true; s.mu.Unlock() },
	} {
		change()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if found, err := n.ask(ctx); err == nil {
			t.Errorf("%s: found %v", name, found)
		}
		cancel()
	}
	s.set(0, many...)
	if _, err := n.ask(t.Context()); err == nil || !strings.Contains(err.Error(), "addresses") {
		t.Errorf("an answer of %d addresses: %v", len(many), err)
	}
	s.set(0, "10.0.0.1")
	if got := ask(t, n); !slices.Equal(got, []string{"10.0.0.1:6543"}) {
		t.Errorf("in the end got %v", got)
	}
}
