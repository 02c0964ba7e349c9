package policy

import (
	"cmp"
	"fmt"
	"slices"
)

// candidates lists the servers that may take a session of a route now. If there is none, or none but a last resort that is worth
// waiting before, wait is true.
func candidates(route *Route, replayed uint64, backends []Backend) (able []Backend, wait bool) {
	var last []Backend
	replicas, lagging := 0, 0
	for _, b := range backends {
		switch {
		case b.Weight <= 0 || b.Draining || !route.Target.Serves(b.Role, route.Fallback):
		case b.Role == Primary && route.Target == TargetReplica:
			last = append(last, b)
		case b.Role == Primary:
			able = append(able, b)
		default:
			replicas++
			if b.Lagging {
				lagging++
			} else if b.Replayed >= replayed {
				able = append(able, b)
			}
		}
	}
	switch {
	case len(able) > 0:
		return able, false
	case replicas == 0, route.Fallback == FallbackLagging && lagging == replicas:
		return last, len(last) == 0
	case route.Fallback == FallbackLagging: // only behind what the client wants to read, which takes a moment at most
		return last, true
	default:
		return nil, true
	}
}

// order puts the servers of the proxy's zone first and those that have failed last. Among equals the one comes first that
// would have the fewest sessions for its weight with this one on it; where that is the same, chance decides.
func (r Rules) order(backends []Backend, roll func() float64) []string {
	type place struct {
		name         string
		ejected, far bool
		busy, drawn  float64
	}
	places := make([]place, len(backends))
	for i, b := range backends {
		places[i] = place{b.Name, b.Ejected, r.Zone != "" && b.Zone != r.Zone, b.Busy(1), roll()}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(
			falseFirst(a.ejected, b.ejected), falseFirst(a.far, b.far),
			cmp.Compare(a.busy, b.busy), cmp.Compare(a.drawn, b.drawn),
		)
	})
	names := make([]string, len(places))
	for i, p := range places {
		names[i] = p.name
	}
	return names
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// leastShare is what a server that has just come back counts at least: without any it would get its first session only when
// it is alone.
const leastShare = 0.01

// Busy is the number of sessions for each unit of the server's weight if so many were added. The weight must be positive.
func (b Backend) Busy(more int) float64 {
	return float64(b.Load+more) / (float64(b.Weight) * max(1-b.Cold, leastShare))
}

// unavailable names what was looked for and what is known of each server, so that the reader need not ask twice.
func unavailable(route *Route, replayed uint64, backends []Backend) string {
	reason := fmt.Sprintf("no %s of cluster %q can take the session now", route.Target.Noun(), route.Cluster)
	for i, b := range backends {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		reason += sep + b.Name + " is " + b.Role.String()
		if detail := b.describe(replayed); detail != "" {
			reason += " (" + detail + ")"
		}
	}
	return reason
}

// describe says in a few words why a server takes no session, empty if nothing but its role keeps one away.
func (b Backend) describe(replayed uint64) string {
	switch {
	case b.Draining:
		return "taken out of service"
	case b.Detail != "":
		return b.Detail
	case b.Weight <= 0:
		return "with weight 0"
	case b.Role == Replica && b.Lagging:
		return "lagging"
	case b.Role == Replica && b.Replayed < replayed:
		return "has replayed " + FormatLSN(b.Replayed) + " of " + FormatLSN(replayed)
	default:
		return ""
	}
}
