//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// dialer connects clients to the program.
type dialer struct {
	address string
	next    atomic.Uint32
}

// dial connects from one of several loopback addresses, so that ports last.
func (d *dialer) dial(ctx context.Context, network byte) (net.Conn, error) {
	n := d.next.Add(1)
	local := &net.TCPAddr{IP: net.IPv4(127, network, byte(n%8), byte(1+n%200))}
	return (&net.Dialer{LocalAddr: local, Timeout: patience}).DialContext(ctx, "tcp", d.address)
}

const (
	friends = 1 // the second byte of the addresses of well-behaved clients
	foes    = 66
)

var sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}

// clientTLS is for all clients: what they are shown is not what is looked at here.
var clientTLS = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}}

// secure asks for TLS and makes the handshake.
func secure(ctx context.Context, conn net.Conn) (*tls.Conn, error) {
	if _, err := conn.Write(sslRequest); err != nil {
		return nil, err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, err
	}
	if answer[0] != 'S' {
		return nil, fmt.Errorf("answer %q to SSLRequest", answer)
	}
	secured := tls.Client(conn, clientTLS)
	return secured, secured.HandshakeContext(ctx)
}

// startupPacket asks for a session.
func startupPacket(database string) []byte {
	body := "\x00\x03\x00\x00" + strings.Join([]string{"user", role, "database", database, "", ""}, "\x00")
	return append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...)
}

// client is a well-behaved client.
type client struct {
	conn *tls.Conn
}

// login logs in. The client waits patience at most for anything.
func (d *dialer) login(ctx context.Context, database string) (*client, error) {
	c, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.begin(database)
}

// connect makes the handshake.
func (d *dialer) connect(ctx context.Context) (*client, error) {
	conn, err := d.dial(ctx, friends)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	secured, err := secure(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &client{secured}, nil
}

// begin asks for a session and waits until the server is ready.
func (c *client) begin(database string) (*client, error) {
	_, err := c.conn.Write(startupPacket(database))
	if err == nil {
		err = c.untilReady()
	}
	if err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	return c, c.conn.SetDeadline(time.Time{})
}

// untilReady reads messages until the server is ready.
func (c *client) untilReady() error {
	reader := wire.NewReader(c.conn)
	for {
		m, err := reader.Next(1 << 16)
		switch {
		case err != nil:
			return err
		case m.Type == wire.TypeErrorResponse:
			state, _ := m.SQLState()
			return &toldError{state}
		case m.Type == wire.TypeReadyForQuery:
			return nil
		}
	}
}

// toldError is an ErrorResponse.
type toldError struct{ sqlState string }

func (e *toldError) Error() string { return "SQLSTATE " + e.sqlState }

// moved reports whether an error is what a change of roles does to clients: they are told to connect again.
func moved(err error) bool {
	told := new(toldError)
	return errors.As(err, &told) && (told.sqlState == wire.AdminShutdown || told.sqlState == wire.CannotConnectNow)
}

var query = []byte("Q\x00\x00\x00\x0dSELECT 1\x00")

// work sends one query and waits for its end.
func (c *client) work() error {
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(query); err != nil {
		return err
	}
	return c.untilReady()
}

// close ends the session as a driver does.
func (c *client) close() {
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	_, _ = c.conn.Write([]byte("X\x00\x00\x00\x04"))
	_ = c.conn.Close()
}

// crowd are many clients, and what went wrong with them.
type crowd struct {
	dialer *dialer
	turns  chan struct{} // of logins
	work   sync.WaitGroup

	mu    sync.Mutex
	errs  []error
	moves int
}

func (c *crowd) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) < 10 {
		c.errs = append(c.errs, err)
	}
}

func (c *crowd) moved() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moves++
}

func (c *crowd) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.errs...)
}

// idle logs n clients in that then do nothing.
func (c *crowd) idle(ctx context.Context, n int) []*client {
	var mu sync.Mutex
	var clients []*client
	var left atomic.Int64
	left.Store(int64(n))
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				one, err := c.dialer.login(ctx, "idle")
				if err != nil {
					c.failed(fmt.Errorf("login of an idle client: %w", err))
					return
				}
				mu.Lock()
				clients = append(clients, one)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return clients
}

// atOnce is how many of the working clients make their handshakes at a time: the fake servers, and with them what the program's
// monitor hears, live in the same process, and thousands of handshakes at once would keep them from the processors.
const atOnce = 16

func newCrowd(d *dialer) *crowd { return &crowd{dialer: d, turns: make(chan struct{}, atOnce)} }

// loginInTurn logs in once fewer than atOnce others do.
func (c *crowd) loginInTurn(ctx context.Context, database string) (*client, error) {
	c.turns <- struct{}{}
	conn, err := c.dialer.connect(ctx)
	<-c.turns
	if err != nil {
		return nil, err
	}
	return conn.begin(database)
}

// busy keeps n clients working, each with a pause between two queries, until ctx ends. When its server changes its role, a
// client connects again.
func (c *crowd) busy(ctx context.Context, n int, database string, pause time.Duration) {
	for i := range n {
		c.work.Go(func() {
			timer := time.NewTimer(pause * time.Duration(i) / time.Duration(n)) // spread
			defer timer.Stop()
			var one *client
			defer func() {
				if one != nil {
					one.close()
				}
			}()
			for {
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
					timer.Reset(pause)
				}
				var err error
				if one == nil {
					one, err = c.loginInTurn(context.WithoutCancel(ctx), database)
				} else {
					err = one.work()
				}
				if err == nil {
					continue
				}
				if one != nil {
					_ = one.conn.Close()
					one = nil
				}
				if moved(err) {
					c.moved()
				} else {
					c.failed(fmt.Errorf("client of %s: %w", database, err))
					return
				}
			}
		})
	}
}

// logins has n clients log in and out again as fast as they can until ctx ends, and returns how long each login took.
func (c *crowd) logins(ctx context.Context, n int, database string) []time.Duration {
	var mu sync.Mutex
	var latency []time.Duration
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				one, err := c.dialer.login(context.WithoutCancel(ctx), database)
				if err != nil {
					c.failed(fmt.Errorf("login: %w", err))
					return
				}
				took := time.Since(began)
				one.close()
				mu.Lock()
				latency = append(latency, took)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return latency
}

// slow has n clients that send their startup packet byte by byte, and are clients all the same.
func (c *crowd) slow(ctx context.Context, n int, database string, pause time.Duration) {
	for range n {
		c.work.Go(func() {
			for ctx.Err() == nil {
				if err := c.dawdle(context.WithoutCancel(ctx), database, pause); err != nil {
					c.failed(fmt.Errorf("slow client: %w", err))
					return
				}
			}
		})
	}
}

func (c *crowd) dawdle(ctx context.Context, database string, pause time.Duration) error {
	conn, err := c.dialer.dial(ctx, friends)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	secured, err := secure(ctx, conn)
	if err != nil {
		return err
	}
	for _, b := range startupPacket(database) {
		if _, err := secured.Write([]byte{b}); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	one := &client{secured}
	if err := one.untilReady(); err != nil {
		return err
	}
	one.close()
	return nil
}

// percentile returns the p-th of some durations, zero of none.
func percentile(p float64, durations []time.Duration) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}
