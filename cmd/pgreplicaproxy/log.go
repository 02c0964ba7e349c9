package main

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
		ReplaceAttr: visibleAttr,
	}))
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
