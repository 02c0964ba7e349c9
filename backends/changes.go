package backends

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// Change is one change of a server's role or status, or of whether it lags.
type Change struct {
	Cluster string
	Time    time.Time
	Was, Is State
	// Err is the fault behind it, nil where there is none. It may tell more than a client should read.
	Err error
}

// changed reports whether two states of a server differ in what is told.
func changed(was, is State) bool {
	return is.Role != was.Role || is.Status != was.Status || is.Lagging != was.Lagging
}

// replace publishes what was judged if it says something new, and tells of what changed. Run alone calls it.
func (m *Monitor) replace(ctx context.Context, now time.Time, v verdict, j Judgement, observations []observation) {
	old := m.Snapshot()
	var changes []Change
	for i := range v.states {
		is := &v.states[i]
		was, known := old.State(is.Target.Name)
		if !known {
			was = state(notAsked(is.Target))
		}
		is.Since = was.Since
		if is.Reason == "" && is.Claim == was.Claim && i == v.primary {
			is.Reason = was.Reason
		}
		if changed(was, *is) {
			is.Since = now
			changes = append(changes, Change{Cluster: m.cluster, Time: now, Was: was, Is: *is, Err: observations[i].err})
		}
	}
	if slices.Equal(v.states, old.States) && j == old.Judgement {
		return
	}
	m.snapshot.Store(newSnapshot(v.states, j))
	close(old.changed)
	for _, c := range changes {
		m.log(ctx, c, v)
		if m.onChange != nil {
			m.onChange(c)
		}
	}
}

// level is how loud a change is told: two servers that both claim to be the primary call for a person, and a moment on the way to
// the next change for nobody.
func (c Change) level(doubtful bool) slog.Level {
	switch {
	case c.Is.Status == Conflict, c.Is.Status == Quarantined:
		return slog.LevelError
	case c.Is.Status == Pending:
		return slog.LevelDebug
	case c.Is.Status != Up, c.Is.Lagging, c.Is.Role == policy.Primary && doubtful:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// log writes the line for one change, with what it stands on.
func (m *Monitor) log(ctx context.Context, c Change, v verdict) {
	was, is := c.Was, c.Is
	attrs := []slog.Attr{
		slog.String("cluster", m.cluster),
		slog.String("backend", is.Target.Name),
		slog.String("role", is.Role.String()),
		slog.String("was", was.Role.String()),
		slog.String("status", is.Status.String()),
	}
	if is.Detail != "" {
		attrs = append(attrs, slog.String("detail", is.Detail))
	}
	if is.Claim == policy.Primary {
		attrs = append(attrs, slog.Uint64("timeline", uint64(is.Timeline)))
	}
	if is.Reason != "" && is.Role == policy.Primary {
		attrs = append(attrs, slog.String("because", is.Reason))
	}
	if is.Lagging != was.Lagging {
		attrs = append(attrs, slog.Bool("lagging", is.Lagging), slog.Uint64("lag_bytes", is.LagBytes), slog.Duration("lag_time", is.LagTime))
	}
	if is.Status == Foreign {
		attrs = append(attrs, slog.String("system_identifier", is.SystemIdentifier))
	}
	if c.Err != nil {
		attrs = append(attrs, slog.String("error", c.Err.Error()))
	}
	m.logger.LogAttrs(ctx, c.level(v.doubtful), "server changed", attrs...)
}
