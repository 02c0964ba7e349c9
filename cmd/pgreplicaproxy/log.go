package main

import (
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// newLogger returns the program's logger: for people when format is "text", or "auto" and w is a terminal; JSON lines for
// machines otherwise.
func newLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	terminal := isTerminal(w)
	if format == "json" || format == "auto" && !terminal {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{
		Level:       level,
		TimeFormat:  time.TimeOnly,
		NoColor:     !terminal || os.Getenv("NO_COLOR") != "",
		ReplaceAttr: quoteControls,
	}))
}

// isTerminal reports whether w is a terminal, for colours and widths.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// quoteControls keeps what clients chose (names of users and databases, texts of errors) from steering the terminal: tint
// writes control characters as they are.
func quoteControls(_ []string, a slog.Attr) slog.Attr {
	var text string
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		text = v.String()
	case slog.KindAny:
		err, ok := v.Any().(error)
		if !ok {
			return a
		}
		text = err.Error()
	default:
		return a
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return slog.String(a.Key, strconv.Quote(text))
	}
	return a
}
