// Package dnstest is a DNS server for tests of names whose addresses change, vanish, or have no answer.
package dnstest

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// Server answers for every name, over UDP, what a test wants. Its methods may be called from anywhere.
type Server struct {
	conn net.PacketConn

	mu        sync.Mutex
	addresses []netip.Addr
	code      byte // RCODE of RFC 1035, section 4.1.1
	silent    bool
	asked     int
}

// Response codes.
const (
	ServerFailure = 2
	NameError     = 3 // NXDOMAIN
)

// New starts a server for the length of the test, which answers with these addresses.
func New(t *testing.T, addresses ...string) *Server {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{conn: conn}
	s.Set(0, addresses...)
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

// Set changes the answer: the response code, zero for none, and addresses.
func (s *Server) Set(code byte, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.addresses, s.silent = code, nil, false
	for _, a := range addresses {
		s.addresses = append(s.addresses, netip.MustParseAddr(a))
	}
}

// Silence lets questions go unanswered until Set.
func (s *Server) Silence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = true
}

// Close stops the server; whoever asks is told at once that nobody listens.
func (s *Server) Close() { _ = s.conn.Close() }

// Address is the server's, with its port.
func (s *Server) Address() string { return s.conn.LocalAddr().String() }

// Questions is how often the server was asked.
func (s *Server) Questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func (s *Server) serve() {
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
func (s *Server) answer(query []byte) []byte {
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
