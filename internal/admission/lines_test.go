package admission

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"
)

// logged asks for n lines and returns how many were allowed.
func logged(g *Gate, kind, addr string, n int) (allowed int) {
	a := netip.Addr{}
	if addr != "" {
		a = netip.MustParseAddr(addr)
	}
	for range n {
		if g.MayLog(kind, a) {
			allowed++
		}
	}
	return allowed
}

func wantUnlogged(t *testing.T, g *Gate, want map[string]int) {
	t.Helper()
	if got := g.Unlogged(); !maps.Equal(got, want) {
		t.Errorf("got %v left out, want %v", got, want)
	}
}

// TestLogLines fills the log from one network, then from many, and looks who still has room.
func TestLogLines(t *testing.T) {
	g, f := newTestGate(Limits{})
	const mine, all = linesPerPrefixBurst, linesPerKindBurst
	if got := logged(g, "tls", "192.0.2.1", 1000); got != mine {
		t.Errorf("one address: %d lines of 1000, want %d", got, mine)
	}
	if got := logged(g, "tls", "192.0.2.77", 10); got != 0 {
		t.Errorf("its neighbour: %d lines of 10, want none", got)
	}
	for _, other := range [][2]string{{"tls", "198.51.100.1"}, {"password", "192.0.2.1"}, {"password", ""}} {
		if got := logged(g, other[0], other[1], 5); got != 5 {
			t.Errorf("%v: %d lines of 5, want all", other, got)
		}
	}
	wantUnlogged(t, g, map[string]int{"tls": 990})
	wantUnlogged(t, g, map[string]int{})
	f.add(10 * time.Second)
	if got := logged(g, "tls", "192.0.2.1", 10); got != 1 {
		t.Errorf("10 s later: %d lines of 10, want one", got)
	}

	f.add(time.Hour)
	many := 0
	for i := range 1000 {
		many += logged(g, "tls", fmt.Sprintf("10.%d.%d.1", i>>8, i&255), 1)
	}
	if many != all {
		t.Errorf("a thousand networks: %d lines, want %d", many, all)
	}
	if got := logged(g, "password", "192.0.2.1", 1); got != 1 {
		t.Error("another kind is left out with them")
	}
	f.add(time.Minute)
	if got := logged(g, "tls", "", 1000); got != 60 {
		t.Errorf("a minute later: %d lines, want one for each second", got)
	}
}
