package proxy

import (
	"net"
	"strings"
	"testing"
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
