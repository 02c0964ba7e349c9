package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// logOutput is the program's logger, and where it writes. What is logged, and how, can be changed while it is in use.
type logOutput struct {
	*slog.Logger
	w       io.Writer
	handler atomic.Pointer[slog.Handler]
}

// openLog returns a logger that writes to w: for people when format is "text", or "auto" and w is a terminal; JSON lines for
// machines otherwise.
func openLog(w io.Writer, level slog.Level, format string) *logOutput {
	o := &logOutput{w: w}
	o.change(level, format)
	o.Logger = slog.New(liveHandler{of: o, with: func(h slog.Handler) slog.Handler { return h }})
	return o
}

// change changes the least level and the format, of loggers derived from o too.
func (o *logOutput) change(level slog.Level, format string) {
	h := newHandler(o.w, level, format)
	o.handler.Store(&h)
}

func newHandler(w io.Writer, level slog.Level, format string) slog.Handler {
	terminal := isTerminal(w)
	if format == "json" || format == "auto" && !terminal {
		return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	}
	return tint.NewTextHandler(w, &tint.Options{
		Level:       level,
		TimeFormat:  time.TimeOnly,
		NoColor:     !terminal || os.Getenv("NO_COLOR") != "",
		ReplaceAttr: visibleAttr,
	})
}

// liveHandler logs by the handler that an output has at the moment.
type liveHandler struct {
	of   *logOutput
	with func(slog.Handler) slog.Handler // adds the attributes and groups of a derived logger
}

// Enabled asks the handler of the moment.
func (h liveHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*h.of.handler.Load()).Enabled(ctx, level)
}

// Handle passes the record to the handler of the moment.
func (h liveHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.with(*h.of.handler.Load()).Handle(ctx, r)
}

// WithAttrs returns a handler that adds attributes.
func (h liveHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return liveHandler{h.of, func(to slog.Handler) slog.Handler { return h.with(to).WithAttrs(attrs) }}
}

// WithGroup returns a handler that opens a group.
func (h liveHandler) WithGroup(name string) slog.Handler {
	return liveHandler{h.of, func(to slog.Handler) slog.Handler { return h.with(to).WithGroup(name) }}
}

// isTerminal reports whether w is a terminal, for colours and widths.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// visibleAttr keeps what clients chose (names of users and databases, texts of errors) from steering the terminal.
func visibleAttr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, visible(v.String()))
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return slog.String(a.Key, visible(err.Error()))
		}
	}
	return a
}

// visible replaces what a terminal would not show as a character by the symbols that Unicode has for that. Quoting would not
// do: tint writes colours through its own quotes by turning the text \x1b back into the character, whoever wrote it.
func visible(text string) string {
	const symbols = '\u2400' // of the control characters, in their order
	shown := strings.Map(func(r rune) rune {
		switch {
		case r < ' ':
			return symbols + r
		case r == 0x7f:
			return '\u2421'
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '\u2426'
		}
		return r
	}, text)
	return strings.ReplaceAll(shown, `\x1b`, `\X1b`)
}
