package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// A change of level and format reaches loggers that were derived before.
func TestLogChanges(t *testing.T) {
	var out bytes.Buffer
	log := openLog(&out, slog.LevelInfo, "text")
	derived := log.With("cluster", "main").WithGroup("g").With("a", 1)
	derived.Debug("hidden")
	derived.Info("shown", "b", 2)
	if got := out.String(); !strings.Contains(got, "INF shown cluster=main g.a=1 g.b=2") || strings.Contains(got, "hidden") {
		t.Errorf("got %q", got)
	}
	out.Reset()
	log.change(slog.LevelDebug, "json")
	derived.Debug("shown now", "b", 2)
	if got := out.String(); !strings.Contains(got, `"msg":"shown now","cluster":"main","g":{"a":1,"b":2}}`) {
		t.Errorf("got %q", got)
	}
}
