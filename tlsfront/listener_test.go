package tlsfront

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener for fake time: it accepts net.Pipes, and fails when told to.
type pipes struct {
	accepted chan any // net.Conn or error
	closed   chan struct{}
}

func newPipes() *pipes { return &pipes{accepted: make(chan any, 100), closed: make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "pipe", Err: net.ErrClosed}
	case next := <-l.accepted:
		if err, ok := next.(error); ok {
			return nil, err
		}
		return next.(net.Conn), nil
	}
}

func (l *pipes) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (l *pipes) dial(t *testing.T) *peer {
	t.Helper()
	near, far := net.Pipe()
	l.accepted <- far
	return newPeer(t, near)
}

func TestTransports(t *testing.T) {
	for _, transport := range []struct{ network, address string }{
		{"tcp4", "127.0.0.1:0"},
		{"tcp6", "[::1]:0"},
		{"unix", filepath.Join(t.TempDir(), ".s.PGSQL.7432")},
	} {
		ln, err := net.Listen(transport.network, transport.address)
		if err != nil && transport.network == "tcp6" {
			t.Logf("not tried, for this machine has no IPv6 loopback: %v", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f := startFront(t, ln, Config{}, nil)
		for _, open := range []func(*peer) *peer{byGSSENCThenSSLRequest, byDirectTLS} {
			p := open(f.dial(t))
			p.send(startup(3, 0, parameters))
			if r := p.refusal(); r.Code != "57P03" {
				t.Errorf("%s: answered %s %q, not by the handler", transport.network, r.Code, r.Message)
			}
		}
		p := f.dial(t)
		p.send(startup(3, 0, parameters))
		if r := p.refusal(); r.Code != "28000" {
			t.Errorf("%s: in clear: answered %s %q, want 28000", transport.network, r.Code, r.Message)
		}
		if n := len(f.stop(t)); n != 2 {
			t.Errorf("%s: %d clients, want 2", transport.network, n)
		}
	}
}

// Serve outlives its listener as long as one handler or one negotiation is under way, and no longer.
func TestServeWaits(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0), PlaintextAllowed: true}
	synctest.Test(t, func(t *testing.T) {
		ln, release := newPipes(), make(chan struct{})
		f := startFront(t, ln, config, func(_ context.Context, c *Client) {
			<-release
			c.Conn.Close()
		})
		served, silent := ln.dial(t), ln.dial(t)
		served.send(startup(3, 0, parameters))
		synctest.Wait()
		ln.Close()

		running := func() bool {
			synctest.Wait() // until nothing moves any more
			select {
			case <-f.done:
				return false
			default:
				return true
			}
		}
		if !running() {
			t.Error("returned with a handler and a negotiation under way")
		}
		silent.Close()
		if !running() {
			t.Error("returned with a handler under way")
		}
		close(release)
		if running() {
			t.Error("did not return when all was over")
		}
		if n := len(f.stop(t)); n != 1 {
			t.Errorf("%d clients, want 1", n)
		}
	})
}

// The end of the context closes connections in every stage of negotiation, but neither the listener nor what a handler has.
func TestContextEnds(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0), PlaintextAllowed: true}
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		f := startFront(t, ln, config, func(ctx context.Context, c *Client) {
			defer c.Conn.Close()
			<-ctx.Done()
			_, _ = io.WriteString(c.Conn, "bye")
		})
		handed := ln.dial(t)
		handed.send(startup(3, 0, parameters))
		var negotiating []*peer
		for _, open := range []func(*peer) *peer{inClear, afterGSSENC, bySSLRequest, byDirectTLS} {
			negotiating = append(negotiating, open(ln.dial(t)))
		}
		requested := ln.dial(t)
		requested.send(sslRequest)
		requested.want("S") // and no handshake
		negotiating = append(negotiating, requested)
		synctest.Wait()

		start := time.Now()
		f.cancel()
		for i, p := range negotiating {
			if got, err := io.ReadAll(p); len(got) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("negotiation %d: read %q, %v, want the end", i, got, err)
			}
		}
		if got := handed.rest(); got != "bye" {
			t.Errorf("client of a handler read %q, want what the handler wrote", got)
		}
		ln.dial(t).wantSilence() // still accepted, and closed at once
		if waited := time.Since(start); waited != 0 {
			t.Errorf("took %v, want no wait for a deadline", waited)
		}
		if n := len(f.stop(t)); n != 1 {
			t.Errorf("%d clients, want 1", n)
		}
	})
}

// One deadline covers everything from accept on, and the client is handed over with it still set.
func TestDeadline(t *testing.T) {
	tlsConfig := fileConfig(t, 0)
	for _, test := range []struct{ timeout, want time.Duration }{{0, 15 * time.Second}, {time.Second, time.Second}} {
		for _, open := range []func(*peer) *peer{inClear, bySSLRequest} {
			synctest.Test(t, func(t *testing.T) {
				ln, accepted := newPipes(), time.Now()
				config := Config{TLS: tlsConfig, LoginTimeout: test.timeout, PlaintextAllowed: true}
				f := startFront(t, ln, config, func(_ context.Context, c *Client) {
					defer c.Conn.Close()
					_, err := c.Conn.Read(make([]byte, 1))
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("read by the handler: %v, want the deadline", err)
					}
				})
				p := ln.dial(t)
				time.Sleep(test.want / 2) // the clock runs from accept, not from the first byte
				p = open(p)
				p.send(startup(3, 0, parameters))
				p.wantSilence()
				if got := time.Since(accepted); got != test.want {
					t.Errorf("timeout %v: deadline passed after %v, want %v", test.timeout, got, test.want)
				}
				if c := f.stop(t)[0]; !c.Deadline.Equal(accepted.Add(test.want)) {
					t.Errorf("timeout %v: Deadline is %v after accept", test.timeout, c.Deadline.Sub(accepted))
				}
			})
		}
	}
}

// acceptError is an error of accept as package net returns it.
func acceptError(errno syscall.Errno) error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", errno)}
}

// Errors of accept that pass are waited out, with a pause that doubles to a second and starts anew after a success.
func TestAcceptRetries(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0)}
	synctest.Test(t, func(t *testing.T) {
		logged := &lines{}
		config.Logger = slog.New(slog.NewJSONHandler(logged, nil))
		ln := newPipes()
		for range 7 {
			ln.accepted <- acceptError(syscall.EMFILE)
		}
		for _, errno := range []syscall.Errno{syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS} {
			ln.accepted <- acceptError(errno)
		}
		first := ln.dial(t)
		ln.accepted <- acceptError(syscall.EMFILE)
		second := ln.dial(t)
		f := startFront(t, ln, config, nil)
		for _, p := range []*peer{first, second} {
			p.send(startup(3, 0, parameters))
			if r := p.refusal(); r.Code != "28000" {
				t.Errorf("answered %s %q", r.Code, r.Message)
			}
		}
		f.wantNoClient(t)

		var got []time.Duration
		for _, line := range logged.parse(t) {
			if line["msg"] == "accept failed" {
				got = append(got, time.Duration(line["retry_in"].(float64)))
			}
		}
		const ms = time.Millisecond
		want := []time.Duration{5 * ms, 10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1000 * ms, 1000 * ms, 5 * ms}
		if !slices.Equal(got, want) {
			t.Errorf("pauses %v, want %v", got, want)
		}
	})
}

// The end of the context ends the pause too.
func TestContextEndsAcceptPause(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0)}
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		for range 20 {
			ln.accepted <- acceptError(syscall.EMFILE)
		}
		f := startFront(t, ln, config, nil)
		time.Sleep(3 * time.Second) // in the middle of a pause of one second
		start := time.Now()
		f.cancel()
		f.wantNoClient(t)
		if waited := time.Since(start); waited != 0 {
			t.Errorf("pause went on for %v", waited)
		}
	})
}

// A listener that is broken for good is an error, once the connections it had are over.
func TestBrokenListener(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0)}
	synctest.Test(t, func(t *testing.T) {
		ln, broken := newPipes(), errors.New("no longer a socket")
		p := ln.dial(t)
		ln.accepted <- broken
		done := make(chan error, 1)
		go func() { done <- config.Serve(t.Context(), ln, sayNotNow) }()
		p.send(startup(3, 0, parameters))
		if r := p.refusal(); r.Code != "28000" {
			t.Errorf("connection accepted before: answered %s %q", r.Code, r.Message)
		}
		if err := <-done; !errors.Is(err, broken) {
			t.Errorf("Serve: %v, want %v", err, broken)
		}
	})
}
