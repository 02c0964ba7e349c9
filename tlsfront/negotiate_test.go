package tlsfront

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/wire"
)

// Ways into a front, as clients take them. They return the peer that may send its startup packet.

func inClear(p *peer) *peer { return p }

func bySSLRequest(p *peer) *peer {
	p.send(sslRequest)
	p.want("S")
	return p.startTLS(libpq())
}

func bySSLRequestALPN(p *peer) *peer { // libpq 17 and later
	p.send(sslRequest)
	p.want("S")
	return p.startTLS(libpq("postgresql"))
}

func byDirectTLS(p *peer) *peer { return p.startTLS(libpq("postgresql")) }

func afterGSSENC(p *peer) *peer {
	p.send(gssencRequest)
	p.want("N")
	return p
}

func byGSSENCThenSSLRequest(p *peer) *peer { return bySSLRequestALPN(afterGSSENC(p)) }

func byPipelinedRequests(p *peer) *peer {
	p.send(gssencRequest, sslRequest)
	p.want("NS")
	return p.startTLS(libpq("postgresql"))
}

func byOptimisticHello(p *peer) *peer {
	return (&peer{&optimistic{Conn: p.Conn}, p.t}).startTLS(libpq("postgresql"))
}

// optimistic sends SSLRequest and ClientHello in one segment, without waiting for the answer to the former, as the
// manual allows ("SSL Session Encryption").
type optimistic struct {
	net.Conn
	asked, answered bool
}

func (o *optimistic) Write(b []byte) (int, error) {
	if o.asked {
		return o.Conn.Write(b)
	}
	o.asked = true
	n, err := o.Conn.Write(append([]byte(sslRequest), b...))
	return max(n-len(sslRequest), 0), err
}

func (o *optimistic) Read(b []byte) (int, error) {
	if !o.answered {
		o.answered = true
		answer := make([]byte, 1)
		if _, err := io.ReadFull(o.Conn, answer); err != nil || answer[0] != 'S' {
			return 0, net.ErrClosed
		}
	}
	return o.Conn.Read(b)
}

func TestNegotiation(t *testing.T) {
	session := startup(3, 0, parameters)
	for _, test := range []struct {
		name    string
		open    func(*peer) *peer
		packet  string
		kind    wire.Kind
		tls     bool
		clearly bool // a listener with PlaintextAllowed
	}{
		{"SSLRequest", bySSLRequest, session, wire.KindStartup, true, false},
		{"SSLRequest with ALPN", bySSLRequestALPN, session, wire.KindStartup, true, false},
		{"GSSENCRequest, SSLRequest", byGSSENCThenSSLRequest, session, wire.KindStartup, true, false},
		{"GSSENCRequest and SSLRequest at once", byPipelinedRequests, session, wire.KindStartup, true, false},
		{"SSLRequest and ClientHello at once", byOptimisticHello, session, wire.KindStartup, true, false},
		{"direct TLS", byDirectTLS, session, wire.KindStartup, true, false},
		{"protocol 3.2", bySSLRequest, startup(3, 2, parameters), wire.KindStartup, true, false},
		{"protocol 3.9999", bySSLRequest, startup(3, 9999, parameters), wire.KindStartup, true, false},
		{"clear", inClear, session, wire.KindStartup, false, true},
		{"clear after GSSENCRequest", afterGSSENC, session, wire.KindStartup, false, true},
		{"TLS where clear is allowed", bySSLRequest, session, wire.KindStartup, true, true},
		{"CancelRequest in clear", inClear, cancelRequest, wire.KindCancel, false, false},
		{"CancelRequest after GSSENCRequest", afterGSSENC, cancelRequest, wire.KindCancel, false, false},
		{"CancelRequest inside TLS", bySSLRequest, cancelRequest, wire.KindCancel, true, false},
		{"CancelRequest inside direct TLS", byDirectTLS, cancelRequest, wire.KindCancel, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := startFront(t, loopback(t), Config{PlaintextAllowed: test.clearly}, nil)
			p := test.open(f.dial(t))
			p.send(test.packet)
			if test.kind == wire.KindCancel {
				p.wantSilence()
			} else if r := p.refusal(); r.Code != "57P03" {
				t.Errorf("answered %s %q, not by the handler", r.Code, r.Message)
			}

			clients := f.stop(t)
			if len(clients) != 1 {
				t.Fatalf("%d clients handed over, want 1", len(clients))
			}
			c := clients[0]
			if c.Opening.Kind != test.kind || (c.TLS != nil) != test.tls || (c.Leaf != nil) != test.tls {
				t.Errorf("got %v, TLS state %t, leaf %t, want %v, %t for both",
					c.Opening.Kind, c.TLS != nil, c.Leaf != nil, test.kind, test.tls)
			}
			wantOpening(t, c.Opening, test.packet)
		})
	}
}

// wantOpening checks that an opening says what its packet said.
func wantOpening(t *testing.T, opening wire.Opening, packet string) {
	t.Helper()
	if opening.Kind == wire.KindCancel {
		if c := opening.Cancel; c.ProcessID != 7 || string(c.Key) != "\x01\x02\x03\x04" {
			t.Errorf("cancel of process %d with key %q", c.ProcessID, c.Key)
		}
		return
	}
	b, err := opening.Startup.AppendBinary(nil)
	if err != nil || string(b) != packet {
		t.Errorf("startup %q, %v, want %q", b, err, packet)
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name     string
		open     func(*peer) *peer
		packet   string
		code     string
		contains []string
	}{
		{"clear", inClear, startup(3, 0, parameters), "28000", []string{"requires TLS", "sslmode=require"}},
		{"clear after GSSENCRequest", afterGSSENC, startup(3, 0, parameters), "28000", []string{"requires TLS", "sslmode=require"}},
		{"second GSSENCRequest", afterGSSENC, gssencRequest, "0A000", []string{"unsupported frontend protocol", "GSSENCRequest"}},
		{"protocol 4.0", inClear, startup(4, 0, parameters), "0A000", []string{"unsupported frontend protocol 4.0", "protocol 3"}},
		{"protocol 4.0 inside TLS", bySSLRequest, startup(4, 0, parameters), "0A000", []string{"unsupported frontend protocol 4.0"}},
		{"unknown request code", inClear, startup(1234, 5681, ""), "0A000", []string{"1234.5681"}},
		{"no terminator", inClear, startup(3, 0, "user\x00bob\x00"), "08P01", []string{"invalid startup packet"}},
		{"no terminator inside TLS", bySSLRequest, startup(3, 0, "user\x00bob\x00"), "08P01", []string{"invalid startup packet"}},
		{"no terminator inside direct TLS", byDirectTLS, startup(3, 0, "user"), "08P01", []string{"invalid startup packet"}},
		{"bytes behind the terminator", bySSLRequest, startup(3, 0, "user\x00bob\x00\x00x"), "08P01", []string{"invalid startup packet"}},
		{"name without value", bySSLRequest, startup(3, 0, "user\x00"), "08P01", []string{"invalid startup packet"}},
		{"two databases", bySSLRequest, startup(3, 0, "database\x00a\x00user\x00bob\x00database\x00b\x00\x00"), "08P01", []string{"invalid startup packet"}},
		{"SSLRequest with a body", inClear, startup(1234, 5679, "x"), "08P01", []string{"invalid startup packet"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := startFront(t, loopback(t), Config{}, nil)
			p := test.open(f.dial(t))
			p.send(test.packet)
			r := p.refusal()
			if r.Code != test.code {
				t.Errorf("SQLSTATE %s, want %s", r.Code, test.code)
			}
			for _, text := range test.contains {
				if !strings.Contains(r.Message+"\n"+r.Hint, text) {
					t.Errorf("message %q, hint %q: no %q", r.Message, r.Hint, text)
				}
			}
			f.wantNoClient(t)
		})
	}
}

// What libpq users read first when they forget TLS.
func TestPlaintextRefusalHint(t *testing.T) {
	f := startFront(t, loopback(t), Config{}, nil)
	p := f.dial(t)
	p.send(startup(3, 0, parameters))
	if r := p.refusal(); r.Message != "connection requires TLS" || !strings.Contains(r.Hint, "sslmode=require") {
		t.Errorf("message %q, hint %q", r.Message, r.Hint)
	}
	f.wantNoClient(t)
}

// Clients of protocol 2 and before read an error without a length word, ended by a zero byte.
func TestLegacyRefusal(t *testing.T) {
	for _, open := range []func(*peer) *peer{inClear, bySSLRequest} {
		for _, version := range []struct {
			major, minor uint16
			name         string
		}{{2, 0, "2.0"}, {1, 0, "1.0"}, {0, 7, "0.7"}} {
			f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, nil)
			p := open(f.dial(t))
			p.send(startup(version.major, version.minor, strings.Repeat("\x00", 288))) // the size it had
			want := "EFATAL:  unsupported frontend protocol " + version.name + ": pgreplicaproxy supports protocol 3\n\x00"
			if got := p.rest(); got != want {
				t.Errorf("protocol %s: answered %q, want %q", version.name, got, want)
			}
			f.wantNoClient(t)
		}
	}
}

// ALPN: a client that offers other protocols only gets the alert, and one that offers none may come by SSLRequest alone.
func TestALPN(t *testing.T) {
	for _, test := range []struct {
		offered           []string
		requested, direct bool // whether it may pass after SSLRequest, and by direct TLS
		alert             bool
	}{
		{nil, true, false, false},
		{[]string{"postgresql"}, true, true, false},
		{[]string{"h2", "postgresql"}, true, true, false},
		{[]string{"h2"}, false, false, true},
		{[]string{"http/1.1"}, false, false, true},
		{[]string{"POSTGRESQL", "postgresql/3", "acme-tls/1"}, false, false, true},
	} {
		for _, direct := range []bool{false, true} {
			f := startFront(t, loopback(t), Config{}, nil)
			p := f.dial(t)
			want := test.direct
			if !direct {
				want = test.requested
				p.send(sslRequest)
				p.want("S")
			}
			conn := tls.Client(p.Conn, libpq(test.offered...))
			err := conn.Handshake()
			if alerted := err != nil && strings.Contains(err.Error(), "remote error: tls: no application protocol"); alerted != test.alert {
				t.Errorf("offered %q, direct %v: handshake: %v, want alert %v", test.offered, direct, err, test.alert)
			}
			if err == nil {
				inside := &peer{conn, t}
				_, _ = io.WriteString(inside, startup(3, 0, parameters)) // may come too late
				if answered := inside.rest() != ""; answered != want {
					t.Errorf("offered %q, direct %v: answered %v, want %v", test.offered, direct, answered, want)
				}
			}
			if got := len(f.stop(t)) == 1; got != want {
				t.Errorf("offered %q, direct %v: handed over %v, want %v", test.offered, direct, got, want)
			}
		}
	}
}
