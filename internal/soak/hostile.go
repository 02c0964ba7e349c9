//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// attacks are what hostile connections do, each until the program ends them or their time is over.
var attacks = []func(ctx context.Context, conn net.Conn){
	silence,
	trickle,
	garbage,
	func(_ context.Context, conn net.Conn) { say(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") },
	func(_ context.Context, conn net.Conn) { say(conn, "\x7f\xff\xff\xff\x00\x03\x00\x00") }, // a packet of 2 GiB
	func(_ context.Context, conn net.Conn) { say(conn, string(sslRequest)+string(sslRequest)) },
	func(ctx context.Context, conn net.Conn) { say(conn, string(sslRequest)); silence(ctx, conn) },
	func(_ context.Context, conn net.Conn) {
		say(conn, string(sslRequest)+"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc")
	}, // half a ClientHello
	strangerInTLS,
	halfStartup,
	strangersCancel,
	vanish,
}

// hostileTime is how long one attack lasts at most.
const hostileTime = 5 * time.Second

// besiege keeps n hostile connections going until ctx ends, and returns then. It counts them.
func (d *dialer) besiege(ctx context.Context, n int, count *atomic.Int64) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			for turn := i; ctx.Err() == nil; turn++ {
				conn, err := d.dial(ctx, foes)
				if err != nil {
					continue // the program may turn them away as it likes
				}
				count.Add(1)
				_ = conn.SetDeadline(time.Now().Add(hostileTime))
				stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
				attacks[turn%len(attacks)](ctx, conn)
				stop()
				_ = conn.Close()
				select { // half of the time nobody is there
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	group.Wait()
}

// say sends something and hears the program out.
func say(conn net.Conn, s string) {
	_, _ = io.WriteString(conn, s)
	_, _ = io.Copy(io.Discard, conn)
}

func silence(_ context.Context, conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// trickle sends a startup packet that never ends, a byte at a time.
func trickle(ctx context.Context, conn net.Conn) {
	_, err := conn.Write([]byte{0, 0, 0x27, 0x10, 0, 3, 0, 0})
	for err == nil && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond)
		_, err = conn.Write([]byte("a"))
	}
}

func garbage(_ context.Context, conn net.Conn) {
	b := make([]byte, 4096)
	_, _ = rand.Read(b)
	say(conn, string(b))
}

// strangerInTLS makes the handshake, which is work for the program, and then says what is no message.
func strangerInTLS(ctx context.Context, conn net.Conn) {
	if secured, err := secure(ctx, conn); err == nil {
		say(secured, "p\x3f\xff\xff\xff")
	}
}

// halfStartup sends half of a startup packet inside TLS and waits.
func halfStartup(ctx context.Context, conn net.Conn) {
	if secured, err := secure(ctx, conn); err == nil {
		say(secured, string(startupPacket("idle")[:12]))
	}
}

// strangersCancel cancels what it does not know.
func strangersCancel(_ context.Context, conn net.Conn) {
	key := make([]byte, 8)
	_, _ = rand.Read(key)
	say(conn, "\x00\x00\x00\x10\x04\xd2\x16\x2e"+string(key))
}

// vanish resets the connection in the middle of a handshake.
func vanish(_ context.Context, conn net.Conn) {
	_, _ = conn.Write(sslRequest)
	_, _ = io.ReadFull(conn, make([]byte, 1))
	hello, peer := net.Pipe()
	go func() { _ = tls.Client(peer, clientTLS).Handshake(); _ = peer.Close() }()
	part := make([]byte, 200)
	n, _ := hello.Read(part)
	_ = hello.Close()
	_, _ = conn.Write(part[:n])
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}
