package tlsfront

import (
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// PROXY headers, byte for byte (proxy-protocol.txt of HAProxy, 2.1 and 2.2).
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1        = "PROXY TCP4 192.0.2.7 198.51.100.1 40001 5432\r\n"
	proxyV2        = proxySignature + "\x21\x11\x00\x0c" + "\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x41\x15\x38"
	proxyLocal     = proxySignature + "\x20\x00\x00\x00"
)

// fromLoopback believes the peers of these tests.
var fromLoopback = Peers{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

// The header tells who the client is, and not a byte behind it is lost: what follows opens the connection.
func TestProxyHeader(t *testing.T) {
	six := strings.Repeat("\x00", 11) + "\x01"
	for _, test := range []struct {
		name, header         string
		address, destination string // empty: the ends of the connection itself
	}{
		{"version 1", proxyV1, "192.0.2.7:40001", "198.51.100.1:5432"},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 40001 5432\r\n", "[2001:db8::7]:40001", "[2001:db8::1]:5432"},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", "", ""},
		{"version 1, unknown, longest", "PROXY UNKNOWN " + strings.Repeat("f", 107-16) + "\r\n", "", ""},
		{"version 2", proxyV2, "192.0.2.7:40001", "198.51.100.1:5432"},
		{
			"version 2, IPv6", proxySignature + "\x21\x21\x00\x24" + "\x20\x01\x0d\xb8" + six + "\x20\x01\x0d\xb8" + six + "\x9c\x41\x15\x38",
			"[2001:db8::1]:40001", "[2001:db8::1]:5432",
		},
		{"version 2, TLVs", strings.Replace(proxyV2, "\x0c", "\x12", 1) + "\x04\x00\x03abc", "192.0.2.7:40001", "198.51.100.1:5432"},
		{
			"version 2, unix", proxySignature + "\x21\x31\x00\xd8" + "/run/a" + strings.Repeat("\x00", 102) + "/run/b" + strings.Repeat("\x00", 102),
			"/run/a", "/run/b",
		},
		{"version 2, local", proxyLocal, "", ""},
		{"version 2, local with addresses", strings.Replace(proxyV2, "\x21", "\x20", 1), "", ""},
	} {
		for way, open := range map[string]func(*peer) *peer{"clear": inClear, "SSLRequest": bySSLRequestALPN, "direct TLS": byDirectTLS} {
			t.Run(test.name+"/"+way, func(t *testing.T) {
				f := startFront(t, loopback(t), Config{PlaintextAllowed: true, ProxyProtocolFrom: fromLoopback}, nil)
				p := f.dial(t)
				p.send(test.header)
				inner := open(p)
				inner.send(startup(3, 0, parameters))
				inner.refusal()
				clients := f.stop(t)
				if len(clients) != 1 {
					t.Fatalf("%d clients, want 1", len(clients))
				}
				address, destination := test.address, test.destination
				if address == "" {
					address, destination = p.LocalAddr().String(), p.RemoteAddr().String()
				}
				if c := clients[0]; c.Address.String() != address || c.Destination.String() != destination {
					t.Errorf("client at %v to %v, want %s to %s", c.Address, c.Destination, address, destination)
				}
			})
		}
	}
}

// A header may come together with what follows it.
func TestProxyHeaderAndOpeningAtOnce(t *testing.T) {
	for _, header := range []string{proxyV1, proxyV2, proxyLocal} {
		f := startFront(t, loopback(t), Config{PlaintextAllowed: true, ProxyProtocolFrom: fromLoopback}, nil)
		p := f.dial(t)
		p.send(header, gssencRequest, startup(3, 0, parameters))
		p.want("N")
		p.refusal()
		if clients := f.stop(t); len(clients) != 1 || clients[0].Opening.Kind != wire.KindStartup {
			t.Errorf("clients %v, want one", clients)
		}
	}
}

// Peers that must send a header are no clients without one, and get no answer.
func TestProxyHeaderRefused(t *testing.T) {
	for name, sent := range map[string]string{
		"none":                        sslRequest,
		"none, startup packet":        startup(3, 0, parameters),
		"none, TLS":                   "\x16\x03\x01\x00\x05hello",
		"two":                         proxyV1 + proxyV1,
		"version 1 too long":          "PROXY UNKNOWN " + strings.Repeat("f", 107-15) + "\r\n",
		"version 1 without CR":        "PROXY TCP4 192.0.2.7 198.51.100.1 40001 5432\n",
		"version 1, bad address":      "PROXY TCP4 192.0.2.256 198.51.100.1 40001 5432\r\n",
		"version 1, bad port":         "PROXY TCP4 192.0.2.7 198.51.100.1 65536 5432\r\n",
		"version 1, other family":     "PROXY TCP4 2001:db8::7 198.51.100.1 40001 5432\r\n",
		"version 2, broken signature": strings.Replace(proxyV2, "QUIT", "EXIT", 1),
		"version 2, other version":    strings.Replace(proxyV2, "\x21", "\x31", 1),
		"version 2, other command":    strings.Replace(proxyV2, "\x21", "\x22", 1),
		"version 2, unspecified":      proxySignature + "\x21\x00\x00\x00",
		"version 2, datagrams":        strings.Replace(proxyV2, "\x11", "\x12", 1),
		"version 2, too short":        proxySignature + "\x21\x11\x00\x04\xc0\x00\x02\x07",
		"version 2, too long":         proxySignature + "\x21\x11\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			f := startFront(t, loopback(t), Config{PlaintextAllowed: true, ProxyProtocolFrom: fromLoopback}, nil)
			p := f.dial(t)
			p.send(sent)
			p.wantSilence()
			f.wantNoClient(t)
		})
	}
}

// From a peer that is not named a header is no opening packet.
func TestProxyHeaderFromStranger(t *testing.T) {
	elsewhere := Peers{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Unix: true}
	for _, header := range []string{proxyV1, proxyV2, proxyLocal} {
		f := startFront(t, loopback(t), Config{PlaintextAllowed: true, ProxyProtocolFrom: elsewhere}, nil)
		p := f.dial(t)
		p.send(header, startup(3, 0, parameters))
		p.wantSilence()
		f.wantNoClient(t)
	}
}

// The deadline of the login covers the header.
func TestProxyHeaderNeverComes(t *testing.T) {
	for _, sent := range []string{"", "PROXY", proxySignature} {
		f := startFront(t, loopback(t), Config{LoginTimeout: 50 * time.Millisecond, ProxyProtocolFrom: fromLoopback}, nil)
		p := f.dial(t)
		p.send(sent)
		p.wantSilence()
		f.wantNoClient(t)
	}
}

func TestProxyHeaderOverUnixSocket(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	f := startFront(t, ln, Config{PlaintextAllowed: true, ProxyProtocolFrom: Peers{Unix: true}}, nil)
	p := f.dial(t)
	p.send(proxyV2, startup(3, 0, parameters))
	p.refusal()
	clients := f.stop(t)
	if len(clients) != 1 || clients[0].IP() != netip.MustParseAddr("192.0.2.7") {
		t.Errorf("clients %+v, want one at 192.0.2.7", clients)
	}
}

// The log names the client that the header names.
func TestProxyHeaderInLog(t *testing.T) {
	logged := &lines{}
	logger := slog.New(slog.NewJSONHandler(logged, nil))
	f := startFront(t, loopback(t), Config{ProxyProtocolFrom: fromLoopback, Logger: logger}, nil)
	p := f.dial(t)
	p.send(proxyV1, startup(3, 0, parameters))
	p.refusal()
	f.wantNoClient(t)
	if got := logged.parse(t); len(got) != 1 || got[0]["client"] != "192.0.2.7:40001" {
		t.Errorf("logged %v, want one line about the client of the header", got)
	}
}

func TestClientIP(t *testing.T) {
	for _, test := range []struct {
		address net.Addr
		want    netip.Addr
	}{
		{&net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 1}, netip.MustParseAddr("192.0.2.7")},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.7").To16(), Port: 1}, netip.MustParseAddr("192.0.2.7")},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, netip.MustParseAddr("fe80::1")},
		{&net.UnixAddr{Name: "/run/a", Net: "unix"}, netip.Addr{}},
	} {
		if got := (&Client{Address: test.address}).IP(); got != test.want {
			t.Errorf("IP of %v is %v, want %v", test.address, got, test.want)
		}
	}
}

// Whatever a peer sends, exactly one header is read or none: its bytes alone say the same, whatever follows them and in
// whatever pieces they come.
func FuzzProxyHeader(f *testing.F) {
	for _, header := range []string{proxyV1, proxyV2, proxyLocal, "PROXY UNKNOWN\r\n", sslRequest} {
		f.Add([]byte(header + "behind"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := strings.NewReader(string(data))
		source, destination, err := proxyAddresses(r)
		if err != nil {
			return
		}
		if (source == nil) != (destination == nil) {
			t.Fatalf("source %v and destination %v", source, destination)
		}
		read := data[:len(data)-r.Len()]
		again, _, err := proxyAddresses(iotest.OneByteReader(strings.NewReader(string(read))))
		if err != nil || source != nil && again.String() != source.String() {
			t.Fatalf("%q alone is %v, %v, want %v", read, again, err, source)
		}
		if _, _, err := proxyAddresses(strings.NewReader(string(read[:len(read)-1]))); err == nil {
			t.Fatalf("%q: the last byte does not belong to the header", read)
		}
	})
}
