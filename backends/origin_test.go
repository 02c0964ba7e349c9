package backends

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// The header comes before everything else, and is byte for byte what the specification says (proxy-protocol.txt of HAProxy,
// 2.2).
func TestDialAnnouncesOrigin(t *testing.T) {
	noLeaks(t)
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	tcp := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	six := "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07"
	for _, test := range []struct {
		name   string
		origin Origin
		want   string
	}{
		{"itself", Origin{}, signature + "\x20\x00\x00\x00"},
		{
			"IPv4",
			Origin{tcp("192.0.2.7", 40001), tcp("198.51.100.1", 5432)},
			signature + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x41\x15\x38",
		},
		{
			"IPv6",
			Origin{tcp("2001:db8::7", 40001), tcp("2001:db8::7", 5432)},
			signature + "\x21\x21\x00\x24" + six + six + "\x9c\x41\x15\x38",
		},
		{
			"unix",
			Origin{&net.UnixAddr{Net: "unix"}, &net.UnixAddr{Net: "unix", Name: "/run/a"}},
			signature + "\x21\x31\x00\xd8" + strings.Repeat("\x00", 108) + "/run/a" + strings.Repeat("\x00", 102),
		},
		{"mixed", Origin{tcp("192.0.2.7", 40001), &net.UnixAddr{Net: "unix", Name: "/run/a"}}, signature + "\x20\x00\x00\x00"},
	} {
		for _, mode := range []TLSMode{TLSOff, TLSRequire} {
			t.Run(test.name+"/"+mode.String(), func(t *testing.T) {
				got := make(chan string, 1)
				to := target(serve(t, func(conn net.Conn) {
					header := readN(conn, len(test.want))
					if mode != TLSOff {
						header = append(header, readN(conn, len(sslRequest))...)
						_, _ = conn.Write([]byte{'N'})
					}
					got <- string(header)
				}), mode)
				to.SendProxyProtocol = true
				conn, err := Dial(within(t), to, test.origin)
				want := test.want
				if mode == TLSOff {
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
				} else {
					if want += string(sslRequest[:]); !errors.Is(err, errNoTLS) {
						t.Errorf("got %v, want %v", err, errNoTLS)
					}
				}
				if got := <-got; got != want {
					t.Errorf("the server read %q, want %q", got, want)
				}
			})
		}
	}
}
