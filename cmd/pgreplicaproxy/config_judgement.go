package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/backends"
)

// judgement reads what a cluster says about which of its servers are believed, and how late they may be.
func (c *converter) judgement(raw *rawCluster, m *backends.MonitorConfig) {
	m.SystemIdentifier = c.systemIdentifier(raw.SystemIdentifier)
	m.MaxLag = choice(c, raw.MaxLag, defaultMaxLag, parseLagLimit)
	m.AllowDelayed = c.boolean(raw.AllowDelayed, false)
	m.OnConflict = choice(c, raw.OnConflict, defaultOnConflict, backends.ParseOnConflict)
	m.AllowSameTimelineTakeover = c.boolean(raw.AllowSameTimelineTakeover, false)
	m.MinStandbysForWrite = c.minStandbys(raw.MinStandbysForWrite, len(raw.Backends))
}

// systemIdentifier returns one as servers write it: a number of 64 bits with a sign.
func (c *converter) systemIdentifier(a *hcl.Attribute) string {
	s, ok := value[string](c, a, `a number in double quotes, such as "7345678901234567890"`)
	if !ok {
		return ""
	}
	if n, err := strconv.ParseInt(s, 10, 64); err != nil || n == 0 || strconv.FormatInt(n, 10) != s {
		c.fail(a.Expr.Range(), "Not a system identifier",
			"%s takes the number that `SELECT system_identifier FROM pg_control_system()` tells on every server of the cluster, not %q.", a.Name, s)
		return ""
	}
	return s
}

// minStandbys returns how many standbys a primary must have. Standbys that the file does not name count for the server, and
// so may be more.
func (c *converter) minStandbys(a *hcl.Attribute, backends int) int {
	n, ok := value[int](c, a, anInt)
	switch {
	case !ok:
		return 0
	case n < 0 || n > maxStandbys:
		c.fail(a.Expr.Range(), "Number of standbys out of range", "%s is a number between 0 (none is needed) and %d.", a.Name, maxStandbys)
		return 0
	case n >= backends:
		c.warn(a.Expr.Range(), "More standbys than the file names",
			"The cluster has %d backends, so a primary can have %d of them as standbys. With %d it is only served while servers that "+
				"are not in the file follow it.", backends, max(0, backends-1), n)
	}
	return n
}

// maxStandbys is the most that max_wal_senders can be (manual, "Sending Servers"), which nobody comes near.
const maxStandbys = 262143

// lagUnits are PostgreSQL's units of memory (manual, "Parameter Names and Values").
var lagUnits = []struct {
	unit string
	size uint64
}{{"kB", 1 << 10}, {"MB", 1 << 20}, {"GB", 1 << 30}, {"TB", 1 << 40}, {"B", 1}}

// parseLagLimit reads a number of bytes with its unit, a duration, or 0 for no limit.
func parseLagLimit(s string) (backends.LagLimit, error) {
	if s == "0" {
		return backends.LagLimit{}, nil
	}
	for _, u := range lagUnits {
		digits, ok := strings.CutSuffix(s, u.unit)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 64); err == nil && n > 0 && n <= 1<<62/u.size {
			return backends.LagLimit{Bytes: n * u.size}, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return backends.LagLimit{Time: d}, nil
	}
	return backends.LagLimit{}, fmt.Errorf(
		`%q is no lag: write bytes with one of the units B, kB, MB, GB and TB, such as "16MB", or a duration such as "30s", or 0 for any`, s)
}
