package proxy

import (
	"net"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// The address is whole whatever the name is: servers cut at 63 bytes.
func TestNameClient(t *testing.T) {
	v4 := &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 40001}
	v6 := &net.TCPAddr{IP: net.ParseIP("2001:db8:1111:2222:3333:4444:5555:6666"), Port: 40001}
	long := strings.Repeat("n", 63)
	for _, test := range []struct {
		name    string
		address net.Addr
		want    string
	}{
		{"psql", v4, "psql (192.0.2.7:40001)"},
		{"", v4, "(192.0.2.7:40001)"},
		{long, v4, long[:63-18] + " (192.0.2.7:40001)"},
		{long, v6, long[:63-49] + " ([2001:db8:1111:2222:3333:4444:5555:6666]:40001)"},
		{"psql", &net.UnixAddr{Net: "unix"}, "psql (local)"},
	} {
		if got := nameClient(test.name, test.address); got != test.want || len(got) > 63 {
			t.Errorf("nameClient(%q, %v) is %q, want %q", test.name, test.address, got, test.want)
		}
	}
}

// What the client can do nothing with yet waits for the next write, unless it becomes much.
func TestSay(t *testing.T) {
	conn := newTape(nil)
	s := &session{client: &tlsfront.Client{Conn: conn}}
	want := ""
	for _, body := range []string{"one", "two"} {
		m := wire.Message{Type: wire.TypeNoticeResponse, Body: []byte(body)}
		if err := s.say(m); err != nil {
			t.Fatal(err)
		}
		want += string(m.Append(nil))
	}
	if conn.told.Len() > 0 {
		t.Errorf("the client heard %q at once", conn.told.Bytes())
	}
	for _, last := range []string{"last", "after it"} {
		if err := s.write([]byte(last)); err != nil {
			t.Fatal(err)
		}
		want += last
	}
	if got := conn.told.String(); got != want {
		t.Errorf("the client heard %q, want %q", got, want)
	}
	for range 1000 {
		if err := s.say(wire.Message{Type: wire.TypeNoticeResponse, Body: make([]byte, 100)}); err != nil {
			t.Fatal(err)
		}
		if len(s.unsaid) > maxUnsaid {
			t.Fatalf("%d bytes wait", len(s.unsaid))
		}
	}
}
