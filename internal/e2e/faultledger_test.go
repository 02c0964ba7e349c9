package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// What the ledger must show after any fault:
//
//   - No session goes on to write once a session on another server has written: the order is that in which the clients sent
//     and heard, so clocks play no part in it.
//   - Every row that was acknowledged is on the primary of the end. Asynchronous replication cannot promise that of a
//     server that crashed: what it acknowledged and did not send before its end is gone with it. Tests name such servers
//     in mayLose, and tests that lose nothing at all replicate synchronously, or stop servers in order.
//   - No row is there of a transaction that its client never committed.
//   - Every session began on a server of its role, and ended as sessions may; see ordinaryEnd.

// check stops the load and judges its ledger by the primary of the end. It returns how many rows were lost with servers
// that may lose some.
func (l *load) check(primary *pgcluster.Server, mayLose ...*pgcluster.Server) (lost int) {
	l.t.Helper()
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.wrong...); err != nil {
		l.t.Error(err)
	}
	for _, text := range interleaved(l.entries) {
		l.t.Error(text)
	}
	return l.compare(primary, mayLose)
}

// interleaved finds rows that a session wrote on one server after a row was written on another, since that session began.
// Both rows were acknowledged, and the second was sent after the first was.
func interleaved(entries []ledgerEntry) (found []string) {
	servers := make(map[string][]ledgerEntry)
	for _, e := range entries {
		servers[e.session.server] = append(servers[e.session.server], e)
	}
	for _, list := range servers {
		slices.SortFunc(list, func(a, b ledgerEntry) int { return cmp.Compare(a.sent, b.sent) })
		for i := len(list) - 2; i >= 0; i-- { // the earliest answer to this one or a later one: the rest is not looked at
			list[i].acked = min(list[i].acked, list[i+1].acked)
		}
	}
	for _, e := range entries {
		for server, list := range servers {
			next, _ := slices.BinarySearchFunc(list, e.session.opened, func(other ledgerEntry, opened time.Duration) int {
				return cmp.Compare(other.sent, opened)
			})
			if server != e.session.server && next < len(list) && list[next].acked < e.sent {
				found = append(found, fmt.Sprintf("row %s was written on %s by a session older than a row on %s", e.id, e.session.server, server))
			}
		}
	}
	return found
}

// TestInterleaved holds the judge of the ledgers to what it is to find.
func TestInterleaved(t *testing.T) {
	entry := func(server string, opened, sent, acked time.Duration) ledgerEntry {
		return ledgerEntry{session: &loadSession{server: server, opened: opened}, sent: sent, acked: acked}
	}
	for name, test := range map[string]struct {
		entries []ledgerEntry
		want    int
	}{
		"one server":              {[]ledgerEntry{entry("a", 0, 1, 2), entry("a", 3, 4, 5)}, 0},
		"one after the other":     {[]ledgerEntry{entry("a", 0, 1, 2), entry("b", 3, 4, 5), entry("a", 6, 7, 8)}, 0},
		"goes on behind another":  {[]ledgerEntry{entry("a", 0, 1, 2), entry("b", 3, 4, 5), entry("a", 0, 6, 7)}, 1},
		"answered behind another": {[]ledgerEntry{entry("a", 0, 1, 9), entry("b", 3, 4, 5)}, 0}, // it may have been done before
		"among many":              {[]ledgerEntry{entry("b", 0, 1, 20), entry("b", 3, 4, 5), entry("a", 2, 6, 7)}, 1},
	} {
		if got := interleaved(test.entries); len(got) != test.want {
			t.Errorf("%s: found %v, want %d", name, got, test.want)
		}
	}
}

// compare looks for the ledger's rows on the primary.
func (l *load) compare(primary *pgcluster.Server, mayLose []*pgcluster.Server) (lost int) {
	l.t.Helper()
	all, err := primary.QueryString(testContext(l.t), "app", "SELECT coalesce(string_agg(id, ' '), '') FROM ledger WHERE id LIKE '"+l.mark+"-%'")
	if err != nil {
		l.t.Fatal(err)
	}
	stored := make(map[string]bool)
	for _, id := range strings.Fields(all) {
		stored[id] = true
	}
	for _, e := range l.entries {
		switch {
		case stored[e.id]:
		case slices.ContainsFunc(mayLose, func(s *pgcluster.Server) bool { return port(s) == e.session.server }):
			lost++
		default:
			l.t.Errorf("row %s was acknowledged by %s and is not on %s", e.id, e.session.server, primary.Name)
		}
	}
	for _, id := range l.undone {
		if stored[id] {
			l.t.Errorf("row %s was never committed by its client and is on %s", id, primary.Name)
		}
	}
	l.t.Logf("ledger: %d rows acknowledged, %d lost with a server that crashed before it had sent them, %d logins refused, %d sessions ended",
		len(l.entries), lost, len(l.refused), len(l.ended))
	return lost
}
