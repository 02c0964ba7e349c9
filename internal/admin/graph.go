package admin

import (
	"fmt"
	"strings"
)

// The size of a graph, in units of its own.
const (
	graphWidth, graphHeight = historyKept, 30.0
	lagHeight               = 24.0 // the rest is the strip of roles
)

// graph is a drawing of the last minutes of a server: a line of its lag, above a strip in the colours of its roles. The newest
// sample is at the right.
type graph struct {
	// Curves are the lag, one for each time in which it was known without a break.
	Curves []curve
	// Roles are the parts of the strip.
	Roles []stretch
	// Text is what it shows, in words.
	Text string
}

// stretch is a time in one role.
type stretch struct {
	Role     string
	X, Width int
}

// curve is a line, and the area below it.
type curve struct{ Line, Area string }

func newCurve(points []string) curve {
	first, _, _ := strings.Cut(points[0], ",")
	last, _, _ := strings.Cut(points[len(points)-1], ",")
	line := strings.Join(points, " ")
	return curve{line, fmt.Sprintf("%s,%.0f %s %s,%.0f", first, lagHeight, line, last, lagHeight)}
}

func newGraph(samples []sample) graph {
	var g graph
	most, now := 0.0, -1.0
	for _, s := range samples {
		most = max(most, s.lag)
		now = s.lag
	}
	offset := historyKept - len(samples)
	var points []string
	for i, s := range samples {
		x := offset + i
		if n := len(g.Roles); n > 0 && g.Roles[n-1].Role == s.role {
			g.Roles[n-1].Width++
		} else {
			g.Roles = append(g.Roles, stretch{s.role, x, 1})
		}
		if s.lag >= 0 {
			// A lag of a page or two is none: the scale begins at 64 kB.
			points = append(points, fmt.Sprintf("%d,%.1f", x, lagHeight-1-(lagHeight-3)*s.lag/max(most, 64<<10)))
		}
		if len(points) > 0 && (s.lag < 0 || i == len(samples)-1) {
			g.Curves = append(g.Curves, newCurve(points))
			points = nil
		}
	}
	g.Text = describe(g.Roles, most, now)
	return g
}

// describe says in words what the graph shows.
func describe(roles []stretch, most, now float64) string {
	if len(roles) == 0 {
		return "no history yet"
	}
	var names []string
	for _, r := range roles {
		names = append(names, r.Role)
	}
	text := "last 5 minutes: " + strings.Join(names, ", then ")
	if now >= 0 {
		text += "; lag " + ByteSize(now) + ", at most " + ByteSize(most)
	}
	return text
}

// ViewBox is the drawing's size.
func (g graph) ViewBox() string { return fmt.Sprintf("0 0 %d %.0f", graphWidth, graphHeight) }

// StripY and StripHeight are where the strip of roles is.
func (g graph) StripY() float64 { return lagHeight + 2 }

// StripHeight is the height of the strip of roles.
func (g graph) StripHeight() float64 { return graphHeight - lagHeight - 2 }
