package proxy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// unloggedEvery is how often it is told how many refusals the log has left out.
const unloggedEvery = time.Minute

// tellUnlogged writes a line now and then, until ctx ends, for each kind of refusal that more came of than the log takes.
func (s *Server) tellUnlogged(ctx context.Context) {
	ticker := time.NewTicker(unloggedEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		unlogged := s.gate.Unlogged()
		for _, kind := range slices.Sorted(maps.Keys(unlogged)) {
			s.log.LogAttrs(ctx, slog.LevelWarn, "refusals left out of the log", slog.String("kind", kind), slog.Int("count", unlogged[kind]))
		}
	}
}
