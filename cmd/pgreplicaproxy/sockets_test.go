package main

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Servers follow one another on a socket while clients connect: each connection is accepted by exactly one of them.
func TestLeasesLoseNoConnection(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		t.Run(network, func(t *testing.T) {
			opened, err := make(sockets).bind([]listenerConfig{{Network: network, Address: address}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer opened.close()
			s := opened[socketKey{Network: network, Address: address}]
			var servers, clients sync.WaitGroup
			serve := func() {
				lease := s.let()
				servers.Go(func() {
					for {
						conn, err := lease.Accept()
						if err != nil {
							if !errors.Is(err, net.ErrClosed) {
								t.Error(err)
							}
							return
						}
						_, _ = conn.Write([]byte("x"))
						_ = conn.Close()
					}
				})
			}
			serve()
			const each = 200
			for range 4 {
				clients.Go(func() {
					for range each {
						conn, err := net.Dial(network, s.Addr().String())
						if err != nil {
							t.Error(err)
							return
						}
						if got, err := io.ReadAll(conn); string(got) != "x" || err != nil {
							t.Errorf("got %q, %v", got, err)
						}
						_ = conn.Close()
					}
				})
			}
			for range 200 {
				serve()
			}
			clients.Wait()
			s.close()
			servers.Wait()
		})
	}
}

// bind opens what is missing, or nothing, and says whose fault it is.
func TestBind(t *testing.T) {
	port0 := listenerConfig{Network: "tcp", Address: "127.0.0.1:0"}
	first, err := make(sockets).bind([]listenerConfig{port0, port0}, nil)
	if err != nil || len(first) != 2 {
		t.Fatalf("got %v, %v, want two sockets", first, err)
	}
	defer first.close()
	again, err := first.bind([]listenerConfig{port0, port0, port0}, nil)
	if err != nil || len(again) != 1 {
		t.Fatalf("got %v, %v, want the third", again, err)
	}
	again.close()

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	socket := listenerConfig{Network: "unix", Address: filepath.Join(t.TempDir(), "socket")}
	theirs := listenerConfig{Network: "tcp", Address: taken.Addr().String()}
	_, err = first.bind([]listenerConfig{socket, theirs}, nil)
	var bind *bindError
	if !errors.As(err, &bind) || bind.index != 1 || !strings.Contains(err.Error(), "another program listens there") {
		t.Errorf("got %v, want one about the second", err)
	}
	if conn, err := net.Dial("unix", socket.Address); err == nil {
		_ = conn.Close()
		t.Error("the first stays open")
	}

	_, port, _ := net.SplitHostPort(taken.Addr().String())
	ours := sockets{socketKey{Network: "tcp", Address: theirs.Address}: nil}
	_, err = ours.bind([]listenerConfig{{Network: "tcp", Address: ":" + port}}, nil)
	if err == nil || !strings.Contains(err.Error(), "cannot move from one to the other") {
		t.Errorf("got %v, want that it is our own", err)
	}
}
