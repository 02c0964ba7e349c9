package backends

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait of a test. It is no expectation: on a busy machine things take their time.
const patience = 30 * time.Second

// noLeaks fails the test if goroutines are left when all its other clean-ups are done. It has to be called first.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// serve runs script for each connection to a listener on loopback, until the test ends, and returns the address. The
// script need not close.
func serve(t *testing.T, script func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, ln, script)
	return ln.Addr().String()
}

func accept(t *testing.T, ln net.Listener, script func(net.Conn)) {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.Context(), func() { _ = conn.Close() })
			running.Go(func() {
				defer stop()
				defer conn.Close()
				script(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		running.Wait()
	})
}

// target is a server on loopback.
func target(address string, mode TLSMode) Target {
	return Target{Cluster: "main", Name: "db1", Network: "tcp", Address: address, TLS: mode, Weight: 1}
}

// readN reads exactly n bytes, or returns what came.
func readN(r io.Reader, n int) []byte {
	buf := make([]byte, n)
	n, _ = io.ReadFull(r, buf)
	return buf[:n]
}

// within returns a context that ends after the test's patience.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
