package tlsfront

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Slowloris: whatever a client has said and however slowly it goes on, the connection ends at the deadline.
func TestSlowloris(t *testing.T) {
	const timeout = 15 * time.Second
	config := Config{TLS: fileConfig(t, 0), LoginTimeout: timeout}
	long := startup(3, 0, strings.Repeat("x", 9000))
	for _, test := range []struct {
		name  string
		open  func(*peer) *peer
		bytes string // sent at once
		slow  string // sent one byte a second
	}{
		{"nothing", inClear, "", ""},
		{"one byte", inClear, "\x00", ""},
		{"half a packet", inClear, startup(3, 0, parameters)[:20], ""},
		{"byte by byte", inClear, "", long},
		{"nothing after GSSENCRequest", afterGSSENC, "", ""},
		{"nothing after SSLRequest", afterSSLRequest, "", ""}, // Traefik CVE-2026-25949, CVE-2026-26999: a deadline that TLS lifts
		{"half a ClientHello after SSLRequest", afterSSLRequest, "\x16\x03\x01\x02\x00\x01", ""},
		{"ClientHello byte by byte after SSLRequest", afterSSLRequest, "", "\x16\x03\x01\x40\x00\x01" + long},
		{"half a ClientHello", inClear, "\x16\x03\x01\x02\x00\x01", ""},
		{"ClientHello byte by byte", inClear, "", "\x16\x03\x01\x40\x00\x01" + long},
		{"nothing inside TLS", bySSLRequest, "", ""},
		{"half a packet inside TLS", bySSLRequest, startup(3, 0, parameters)[:20], ""},
		{"byte by byte inside direct TLS", byDirectTLS, "", long},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				f := startFront(t, ln, config, nil)
				start := time.Now()
				p := test.open(ln.dial(t))
				p.send(test.bytes)
				var dripping sync.WaitGroup
				dripping.Go(func() { drip(p, test.slow) })
				p.wantSilence()
				if took := time.Since(start); took != timeout {
					t.Errorf("ended after %v, want %v", took, timeout)
				}
				dripping.Wait()
				f.wantNoClient(t)
			})
		})
	}
}

// afterSSLRequest has asked for TLS, and was told to go on.
func afterSSLRequest(p *peer) *peer {
	p.send(sslRequest)
	p.want("S")
	return p
}

// drip sends a byte a second until there are no more or nobody listens.
func drip(w io.Writer, bytes string) {
	for i := range len(bytes) {
		time.Sleep(time.Second)
		if _, err := io.WriteString(w, bytes[i:i+1]); err != nil {
			return
		}
	}
}

// A client that asks for TLS and stops before the handshake is over, likewise, and who poses as ACME's validation
// (Traefik GHSA-cwjm-3f7h-9hwq).
func TestSlowHandshake(t *testing.T) {
	config := Config{TLS: fileConfig(t, 0), LoginTimeout: time.Second}
	config.Challenges = config.TLS.Clone()
	config.Challenges.NextProtos = []string{alpnACME}
	for name, test := range map[string]struct {
		open     func(*peer) *peer
		protocol string
	}{
		"SSLRequest": {afterSSLRequest, alpn},
		"direct":     {inClear, alpn},
		"challenge":  {inClear, alpnACME},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipes()
				f := startFront(t, ln, config, nil)
				start := time.Now()
				p := test.open(ln.dial(t))
				conn := tls.Client(silenced{p.Conn}, libpq(test.protocol))
				if err := conn.Handshake(); err == nil {
					t.Error("handshake succeeded")
				}
				p.rest()
				if took := time.Since(start); took != time.Second {
					t.Errorf("ended after %v, want a second", took)
				}
				f.wantNoClient(t)
			})
		})
	}
}

// silenced lets a ClientHello through and fails afterwards, so that the server waits for the rest of the handshake.
type silenced struct{ net.Conn }

func (s silenced) Read([]byte) (int, error) { return 0, io.ErrNoProgress }
