package tlsfront

import (
	"crypto/tls"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
)

// Each test here is an attack that worked on somebody. Those that have a CVE are named for it.

// wantAlive checks that the front still serves, after whatever was done to it.
func (f *front) wantAlive(t *testing.T) {
	t.Helper()
	p := bySSLRequest(f.dial(t))
	p.send(startup(3, 0, parameters))
	if r := p.refusal(); r.Code != "57P03" {
		t.Errorf("answered %s %q, not by the handler", r.Code, r.Message)
	}
}

// wantOnlyTheLast stops the front and fails unless wantAlive's was its only client.
func (f *front) wantOnlyTheLast(t *testing.T) {
	t.Helper()
	if n := len(f.stop(t)); n != 1 {
		t.Errorf("%d clients handed over, want only the one that came properly", n)
	}
}

// Bytes sent in clear behind an SSLRequest must not be taken for bytes of the encrypted session (PostgreSQL
// CVE-2021-23214, PgBouncer CVE-2021-3935, Odyssey CVE-2021-43766).
func TestCVE_2021_23214_BytesStuffedBehindSSLRequest(t *testing.T) {
	query := "Q\x00\x00\x00\x0ddrop all;\x00"
	for _, stuffed := range []string{
		startup(3, 0, parameters) + query,
		startup(3, 0, parameters),
		cancelRequest,
		sslRequest,
		gssencRequest,
		query,
		"\x00",
	} {
		f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, nil)
		p := f.dial(t)
		p.send(sslRequest, stuffed)
		p.want("S")
		// The client knows nothing of what was stuffed before its own first byte, and goes on.
		if err := tls.Client(p.Conn, libpq("postgresql")).Handshake(); err == nil {
			t.Errorf("stuffed %q: handshake succeeded", stuffed)
		}
		p.Close()
		f.wantAlive(t)
		f.wantOnlyTheLast(t)
	}
}

// The same behind a GSSENCRequest: what follows is read in clear and judged as such.
func TestBytesStuffedBehindGSSENCRequest(t *testing.T) {
	f := startFront(t, loopback(t), Config{}, nil)
	p := f.dial(t)
	p.send(gssencRequest, startup(3, 0, parameters))
	p.want("N")
	if r := p.refusal(); r.Code != "28000" {
		t.Errorf("answered %s %q, want 28000", r.Code, r.Message)
	}
	f.wantNoClient(t)
}

// Negotiation inside TLS ends the connection, without an answer that could be taken for the beginning of another layer.
func TestCVE_2026_14681_NegotiationInsideTLS(t *testing.T) {
	hello := "\x16\x03\x01\x00\x04\x01\x00\x00\x00"
	for name, open := range map[string]func(*peer) *peer{
		"SSLRequest": bySSLRequest, "direct TLS": byDirectTLS, "GSSENCRequest, SSLRequest": byGSSENCThenSSLRequest,
	} {
		for request, packet := range map[string]string{
			"GSSENCRequest": gssencRequest, "SSLRequest": sslRequest, "ClientHello": hello,
		} {
			t.Run(request+" inside "+name, func(t *testing.T) {
				f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, nil)
				p := open(f.dial(t))
				p.send(packet, startup(3, 0, parameters))
				p.wantSilence()
				f.wantNoClient(t)
			})
		}
	}
}

// A packet of another phase, or of none, as the first one (PgBouncer CVE-2015-4054 died of a password).
func TestCVE_2015_4054_PasswordBeforeStartup(t *testing.T) {
	packets := []string{
		"p\x00\x00\x00\x0bsecret\x00",
		"p\x00\x00\x00\x04",
		"Q\x00\x00\x00\x0dselect 1\x00",
		"X\x00\x00\x00\x04",
		"\x00\x00\x00\x08p\x00\x00\x00", // a password where the version belongs is a version that nobody speaks
	}
	random := rand.New(rand.NewPCG(2015, 4054))
	for range 100 {
		packet := make([]byte, 1+random.IntN(64))
		for i := range packet {
			packet[i] = byte(random.Uint32())
		}
		packets = append(packets, string(packet))
	}
	f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, nil)
	for _, packet := range packets {
		p := f.dial(t)
		_, _ = io.WriteString(p, packet)
		_ = p.Conn.(*net.TCPConn).CloseWrite()
		p.rest()
	}
	p := bySSLRequest(f.dial(t))
	p.send(packets[0])
	p.wantSilence()
	f.wantAlive(t)
	f.wantOnlyTheLast(t)
}

// ALPACA: a browser, or a mail client, led here by somebody in the middle must get nothing that its own protocol could
// take for an answer, least of all its own bytes.
func TestALPACA(t *testing.T) {
	foreign := []string{
		"GET / HTTP/1.1\r\nHost: db.example.com\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 8\r\n\r\n" + sslRequest,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"EHLO mail.example.com\r\n",
		"USER anonymous\r\n",
		"a1 CAPABILITY\r\n",
		"SSH-2.0-OpenSSH_9.9\r\n",
		"*1\r\n$4\r\nPING\r\n",
		"<script>alert(1)</script>",
	}
	f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, nil)
	for _, open := range []func(*peer) *peer{inClear, afterGSSENC, bySSLRequest, byDirectTLS} {
		for _, bytes := range foreign {
			p := open(f.dial(t))
			p.send(bytes)
			p.wantSilence()
		}
	}
	for _, protocols := range [][]string{nil, {"h2", "http/1.1"}, {"smtp"}, {"ftp"}, {"imap"}} {
		conn := tls.Client(f.dial(t).Conn, libpq(protocols...))
		if err := conn.Handshake(); err != nil {
			continue // the alert no_application_protocol: TestALPN
		}
		if protocols != nil {
			t.Errorf("direct TLS with ALPN %q: handshake succeeded", protocols)
		}
		_, _ = io.WriteString(conn, foreign[0]) // may come too late
		(&peer{conn, t}).wantSilence()
	}
	f.wantAlive(t)
	f.wantOnlyTheLast(t)
}

// Go's crypto/tls quotes the client's protocol names in its error: neither a line of the log can be forged with them, nor
// the log filled.
func TestCVE_2025_58189_ProtocolNamesInTheLog(t *testing.T) {
	logged := &lines{}
	logger := slog.New(slog.NewTextHandler(logged, nil))
	f := startFront(t, loopback(t), Config{Logger: logger}, nil)
	forged := "x\nlevel=ERROR msg=\"all is lost\"\x1b[2J"
	protocols := []string{forged}
	for range 50 {
		protocols = append(protocols, strings.Repeat("y", 255))
	}
	if err := tls.Client(f.dial(t).Conn, libpq(protocols...)).Handshake(); err == nil {
		t.Error("handshake succeeded")
	}
	f.wantNoClient(t)
	text := logged.String()
	if strings.Count(text, "\n") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("logged %q, want one line without control characters", text)
	}
	if len(text) > 600 || !strings.Contains(text, "application protocol") {
		t.Errorf("logged %d bytes, want the reason and not all that the client sent: %s", len(text), text)
	}
}

// Lengths outside the limits are refused by the length word alone: nothing is waited for, and nothing allocated.
func TestHugeStartupLengthAllocatesNothing(t *testing.T) {
	f := startFront(t, loopback(t), Config{LoginTimeout: patience}, nil)
	inside := []*peer{bySSLRequest(f.dial(t)), byDirectTLS(f.dial(t))}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	attempts := uint64(0)
	attempt := func(p *peer, head string) {
		attempts++
		p.send(head)
		p.wantSilence() // and so before the body that never comes
	}
	for _, p := range inside {
		attempt(p, "\x7f\xff\xff\xff")
	}
	for range 20 {
		for _, head := range []string{
			"\x7f\xff\xff\xff", "\x80\x00\x00\x00", "\xff\xff\xff\xff", "\x40\x00\x00\x00", "\x00\xff\xff\xff", "p\x3f\xff\xff",
			"\x00\x00\x27\x15",                                         // 10005, one more than PostgreSQL takes
			"\x00\x00\x00\x00", "\x00\x00\x00\x04", "\x00\x00\x00\x07", // no room for a code
		} {
			attempt(f.dial(t), head)
		}
	}
	runtime.ReadMemStats(&after)
	// Both ends of a connection, its goroutine and the log: a few KiB. The least of the huge lengths is 16 MiB.
	if each := (after.TotalAlloc - before.TotalAlloc) / attempts; each > 256<<10 {
		t.Errorf("%d bytes allocated for each attempt", each)
	}
	f.wantNoClient(t)
}

// The limit itself is PostgreSQL's: 10,000 bytes behind the length word.
func TestLongestStartup(t *testing.T) {
	f := startFront(t, loopback(t), Config{}, nil)
	p := bySSLRequest(f.dial(t))
	name := strings.Repeat("n", 10000-4-len("user\x00\x00\x00"))
	p.send(startup(3, 0, "user\x00"+name+"\x00\x00"))
	p.refusal()
	clients := f.stop(t)
	if len(clients) != 1 || clients[0].Opening.Startup.User() != name {
		t.Errorf("%d clients, want one with the whole name", len(clients))
	}
}

// Old versions of TLS get the alert that names the reason.
func TestTLS11(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		for _, direct := range []bool{false, true} {
			f := startFront(t, loopback(t), Config{}, nil)
			p := f.dial(t)
			if !direct {
				p.send(sslRequest)
				p.want("S")
			}
			config := libpq("postgresql")
			config.MinVersion, config.MaxVersion = tls.VersionTLS10, version
			err := tls.Client(p.Conn, config).Handshake()
			if err == nil || !strings.Contains(err.Error(), "remote error: tls: protocol version not supported") {
				t.Errorf("version %x, direct %v: handshake: %v, want the alert protocol_version", version, direct, err)
			}
			f.wantNoClient(t)
		}
	}
}

// PostgreSQL before 17 and its clients know no direct TLS behind a negotiation request; neither does the front.
func TestDirectTLSAfterGSSENCRequest(t *testing.T) {
	f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, nil)
	p := afterGSSENC(f.dial(t))
	if err := tls.Client(p.Conn, libpq("postgresql")).Handshake(); err == nil {
		t.Error("handshake succeeded")
	}
	f.wantNoClient(t)
}
