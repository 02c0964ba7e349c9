//go:build linux

package main

import (
	"bufio"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/replicon/pgreplicaproxy/wire"
)

// server is a fake server on loopback. The sessions of the program's monitor are passed on to a real one, which may change;
// all others are played: everybody is let in, and each query is answered by nothing much.
type server struct {
	listener net.Listener
	real     atomic.Pointer[string] // address of the real one
	sessions atomic.Int64           // played, at present

	mu       sync.Mutex
	monitors map[net.Conn]struct{}
	work     sync.WaitGroup
}

func startServer(real string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{listener: listener, monitors: make(map[net.Conn]struct{})}
	s.real.Store(&real)
	s.work.Go(s.accept)
	return s, nil
}

func (s *server) address() string { return s.listener.Addr().String() }

// become stands in for another real server from now on: monitors have to log in again.
func (s *server) become(real string) {
	s.real.Store(&real)
	s.cutMonitors()
}

func (s *server) cutMonitors() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.monitors {
		_ = conn.Close()
	}
}

// stop closes the listener. Sessions end with the program.
func (s *server) stop() {
	_ = s.listener.Close()
	s.cutMonitors()
	s.work.Wait()
}

func (s *server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.work.Go(func() { s.serve(conn) })
	}
}

func (s *server) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	opening, err := wire.ReadOpening(conn)
	switch {
	case err != nil || opening.Kind != wire.KindStartup:
	case opening.Startup.User() == monitorRole:
		s.forward(conn, opening.Startup)
	default:
		s.sessions.Add(1)
		s.play(conn)
		s.sessions.Add(-1)
	}
}

// forward passes a session on to the real server.
func (s *server) forward(conn net.Conn, startup wire.Startup) {
	real, err := net.Dial("tcp", *s.real.Load())
	if err != nil {
		return
	}
	defer func() { _ = real.Close() }()
	s.mu.Lock()
	s.monitors[conn] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.monitors, conn)
		s.mu.Unlock()
	}()
	packet, _ := startup.AppendBinary(nil)
	if _, err := real.Write(packet); err != nil {
		return
	}
	s.work.Go(func() {
		_, _ = io.Copy(real, conn)
		_ = real.Close()
	})
	_, _ = io.Copy(conn, real)
}

// What a fake server says: it lets in, and it has done what was asked.
var (
	welcome = "R\x00\x00\x00\x08\x00\x00\x00\x00" + ready
	done    = "C\x00\x00\x00\x0dSELECT 0\x00" + ready
	ready   = "Z\x00\x00\x00\x05I"
)

// play answers queries until the client ends.
func (s *server) play(conn net.Conn) {
	if _, err := io.WriteString(conn, welcome); err != nil {
		return
	}
	reader := wire.NewReader(bufio.NewReaderSize(conn, 64))
	for {
		m, err := reader.Next(1 << 16)
		if err != nil || m.Type == 'X' {
			return
		}
		if _, err := io.WriteString(conn, done); err != nil {
			return
		}
	}
}
