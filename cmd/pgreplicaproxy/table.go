package main

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// cell is a word of a table, with a colour for terminals.
type cell struct {
	text   string
	colour colour
	right  bool // aligned so
}

// colour is an SGR sequence of ECMA-48, empty for none.
type colour string

// The colours.
const (
	plain  colour = ""
	bold   colour = "\x1b[1m"
	faint  colour = "\x1b[2m"
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	blue   colour = "\x1b[34m"
)

// printer lays out what commands tell.
type printer struct {
	out      io.Writer
	coloured bool
}

// newPrinter prints in colours where out is a terminal, unless NO_COLOR is set.
func newPrinter(out io.Writer) printer {
	return printer{out, isTerminal(out) && os.Getenv("NO_COLOR") == ""}
}

func (p printer) paint(text string, c colour) string {
	if !p.coloured || c == plain || text == "" {
		return text
	}
	return string(c) + text + "\x1b[0m"
}

// table returns rows in columns, two spaces apart, each line indented. The first row is the heading. Texts are made visible:
// they may be a client's.
func (p printer) table(indent string, rows [][]cell) string {
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i].text = visible(row[i].text)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	var b strings.Builder
	for i, row := range rows {
		var line strings.Builder
		line.WriteString(indent)
		for j, c := range row {
			if i == 0 {
				c.colour = faint
				c.right = len(rows) > 1 && rows[1][j].right
			}
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(c.text))
			text := p.paint(c.text, c.colour)
			if c.right {
				text = pad + text
			} else {
				text += pad
			}
			if j > 0 {
				line.WriteString("  ")
			}
			line.WriteString(text)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// heading is the first row of a table.
func heading(names ...string) []cell {
	row := make([]cell, len(names))
	for i, name := range names {
		row[i].text = name
	}
	return row
}
