package socket_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/replicon/pgreplicaproxy/internal/socket"
)

// TestOptions reads back what New has set.
func TestOptions(t *testing.T) {
	s, _ := pair(t, "tcp")
	for _, option := range []struct {
		name              string
		level, opt, value int
	}{
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 300_000},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if got := getsockopt(t, s, option.level, option.opt); got != option.value {
			t.Errorf("%s: got %d, want %d", option.name, got, option.value)
		}
	}
}

// TestKeepAliveSpread: sockets that connect together do not probe together.
func TestKeepAliveSpread(t *testing.T) {
	sockets := make(map[int]int)
	for range 200 {
		s, _ := pair(t, "tcp")
		idle := getsockopt(t, s, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if idle < 30 || idle > 90 {
			t.Fatalf("TCP_KEEPIDLE: got %d, want 30 to 90 s", idle)
		}
		sockets[idle]++
	}
	for idle, n := range sockets {
		if n > 40 {
			t.Errorf("%d of 200 sockets probe after %d s", n, idle)
		}
	}
}

func getsockopt(t *testing.T, s *socket.Socket, level, option int) int {
	t.Helper()
	raw, err := s.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	var optErr error
	err = raw.Control(func(fd uintptr) { value, optErr = unix.GetsockoptInt(int(fd), level, option) })
	if err := errors.Join(err, optErr); err != nil {
		t.Fatalf("getsockopt %d, %d: %v", level, option, err)
	}
	return value
}

// TestNewClosed reports a connection that takes no options.
func TestNewClosed(t *testing.T) {
	s, _ := pair(t, "tcp")
	_ = s.Close()
	if _, err := socket.New(s.Conn); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

func TestDetach(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			s, peer := pair(t, network)
			s.Unread([]byte("early "))
			address := s.RemoteAddr().String()
			fd, memory, err := s.Detach()
			if err != nil {
				t.Fatal(err)
			}
			if got := s.RemoteAddr().String(); got != address {
				t.Errorf("got address %q, want %q", got, address)
			}
			expect(t, s, "early ")
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, socket.ErrWouldBlock) {
				t.Errorf("got %v, want %v", err, socket.ErrWouldBlock)
			}
			memory.Feed([]byte("not read"))
			if got := memory.Rest(); string(got) != "not read" {
				t.Errorf("got %q, want what was fed", got)
			}
			memory.Feed([]byte("fed"))
			memory.FeedEnd(io.EOF)
			if got, err := io.ReadAll(s); string(got) != "fed" || err != nil {
				t.Errorf("got %q, %v, want fed", got, err)
			}
			write(t, s, "one ")
			write(t, s, "two")
			if got := memory.Output(nil); string(got) != "one two" {
				t.Errorf("got %q, want what was written", got)
			}
			if got := memory.Output(nil); len(got) != 0 {
				t.Errorf("got %q again", got)
			}
			// The connection is alive and non-blocking.
			if _, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.EAGAIN) {
				t.Errorf("got %v, want %v", err, unix.EAGAIN)
			}
			if _, err := unix.Write(fd, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			expect(t, peer, "hello")
			if err := s.SetDeadline(time.Now()); err != nil {
				t.Errorf("set a deadline: %v", err)
			}
			_ = unix.Close(fd)
			memory.Close()
			if err := s.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("set a deadline of a closed one: got %v, want %v", err, net.ErrClosed)
			}
			if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want EOF: a descriptor is left", err)
			}
		})
	}
}

func TestDetachPipe(t *testing.T) {
	near, peer := net.Pipe()
	defer near.Close()
	defer peer.Close()
	s, err := socket.New(near)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Detach(); err == nil {
		t.Error("a pipe was detached")
	}
	go func() { _, _ = io.WriteString(peer, "x") }()
	expect(t, s, "x")
}

// TestRecords reads a stream of TLS records from memory that begins before the detaching, within a record: no read crosses
// the boundary of a header or of a body.
func TestRecords(t *testing.T) {
	record := func(n int) string {
		return "\x17\x03\x03" + string(binary.BigEndian.AppendUint16(nil, uint16(n))) + strings.Repeat("r", n)
	}
	stream := record(10) + record(0) + record(16640) + record(1) + record(300)
	for _, before := range []int{0, 3, 5, 9, 15, 18, 20, 40} {
		s, peer := pair(t, "tcp")
		s.StartTLS()
		write(t, peer, stream[:before])
		expect(t, s, stream[:before])
		fd, memory, err := s.Detach()
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		var got bytes.Buffer
		var reads []int
		left, p := stream[before:], make([]byte, 32<<10)
		for _, size := range []int{4, 7, 1000, len(stream)} {
			size = min(size, len(left))
			memory.Feed([]byte(left[:size]))
			left = left[size:]
			for {
				n, err := s.Read(p)
				if errors.Is(err, socket.ErrWouldBlock) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got.Write(p[:n])
				reads = append(reads, before+got.Len())
			}
		}
		if got.String() != stream[before:] {
			t.Errorf("from %d: other bytes than were fed", before)
		}
		for boundary, end := range map[int]string{5: "first header", 15: "first body", 20: "empty record", 25: "third header", 16665: "third body", 16670: "fourth header"} {
			if boundary > before && !slices.Contains(reads, boundary) {
				t.Errorf("from %d: a read crossed the end of the %s, reads ended at %v", before, end, reads)
			}
		}
	}
}
