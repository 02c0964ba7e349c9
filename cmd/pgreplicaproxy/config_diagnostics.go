package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"golang.org/x/term"
)

// diagnostics are what there is to say about one file, with the file itself for the lines to show. The zero value has
// nothing to say.
type diagnostics struct {
	path string
	file *hcl.File
	list hcl.Diagnostics
}

// unreadable is the diagnostics of a file that could not be read at all.
func unreadable(err error) diagnostics {
	return diagnostics{list: hcl.Diagnostics{{
		Severity: hcl.DiagError,
		Summary:  "Configuration cannot be read",
		Detail:   sentence(err.Error()) + ". Name the file with --config; pgreplicaproxy.hcl of the distribution is one to start from.",
	}}}
}

// hasErrors reports whether the file cannot be used. Warnings are no errors.
func (d diagnostics) hasErrors() bool { return d.list.HasErrors() }

// String counts: "2 errors, 1 warning".
func (d diagnostics) String() string {
	errors, warnings := 0, 0
	for _, diag := range d.list {
		if diag.Severity == hcl.DiagError {
			errors++
		} else {
			warnings++
		}
	}
	if warnings == 0 {
		return count(errors, "error")
	}
	return count(errors, "error") + ", " + count(warnings, "warning")
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// place is where in a file something stands: an argument of the top level, or the nth block of a kind. The zero value is nowhere
// in particular.
type place struct {
	key   string
	block string
	nth   int
}

// failAt adds a mistake that shows only when the configuration is put to use.
func (d *diagnostics) failAt(at place, summary, detail string) {
	diag := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail}
	if body, ok := d.file.Body.(*hclsyntax.Body); ok {
		if a := body.Attributes[at.key]; a != nil {
			diag.Subject = a.SrcRange.Ptr()
		}
		for _, block := range body.Blocks {
			if block.Type != at.block {
				continue
			}
			if at.nth == 0 {
				diag.Subject = block.DefRange().Ptr()
				break
			}
			at.nth--
		}
	}
	d.list = append(d.list, diag)
}

// log writes a line for each diagnostic, masked like the rest.
func (d diagnostics) log(log *slog.Logger) {
	for _, diag := range d.sorted() {
		level := slog.LevelWarn
		if diag.Severity == hcl.DiagError {
			level = slog.LevelError
		}
		attrs := []slog.Attr{slog.String("problem", diag.Summary), slog.String("detail", diag.Detail)}
		if diag.Subject != nil {
			attrs = append(attrs, slog.String("at", fmt.Sprintf("%s:%d", diag.Subject.Filename, diag.Subject.Start.Line)))
		}
		log.LogAttrs(context.Background(), level, "configuration", attrs...)
	}
}

// sorted returns what there is to say in the order of the file, with passwords masked.
func (d diagnostics) sorted() []*hcl.Diagnostic {
	list := slices.Clone(d.list)
	slices.SortStableFunc(list, byPosition)
	for i, diag := range list {
		list[i] = maskDetail(diag, d.file, d.masked())
	}
	return list
}

// masked is the file with its passwords masked, nil for none.
func (d diagnostics) masked() *hcl.File {
	if d.file == nil {
		return nil
	}
	return &hcl.File{Bytes: maskSecrets(d.file.Bytes), Nav: d.file.Nav}
}

// write tells all of it in the order of the file: what is wrong, the line, and what to do. On a terminal it has colour,
// unless NO_COLOR is set, and lines that fit. Passwords on lines shown are masked.
func (d diagnostics) write(w io.Writer) error {
	files := map[string]*hcl.File{}
	if masked := d.masked(); masked != nil {
		files[d.path] = masked
	}
	var width uint
	var colour bool
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		colour = os.Getenv("NO_COLOR") == ""
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			width = uint(columns)
		}
	}
	return hcl.NewDiagnosticTextWriter(w, files, width, colour).WriteDiagnostics(d.sorted())
}

// maskDetail takes the text that a diagnostic points at from its detail, where the line is masked.
func maskDetail(d *hcl.Diagnostic, file, masked *hcl.File) *hcl.Diagnostic {
	if file == nil || d.Subject == nil || !d.Subject.CanSliceBytes(file.Bytes) {
		return d
	}
	text, stars := string(d.Subject.SliceBytes(file.Bytes)), string(d.Subject.SliceBytes(masked.Bytes))
	if text == stars {
		return d
	}
	clone := *d
	clone.Detail = strings.ReplaceAll(d.Detail, text, stars)
	return &clone
}

// byPosition orders by place in the file, what has no place first. HCL itself goes through arguments in random order.
func byPosition(a, b *hcl.Diagnostic) int {
	start := func(d *hcl.Diagnostic) int {
		if d.Subject == nil {
			return -1
		}
		return d.Subject.Start.Byte
	}
	return cmp.Or(start(a)-start(b), cmp.Compare(a.Severity, b.Severity),
		strings.Compare(a.Summary, b.Summary), strings.Compare(a.Detail, b.Detail))
}

var (
	// secretLine is a line that sets something which sounds like a secret, "pasword" included. The first group stays:
	// the name, and the call and first argument of env or file, which are no secret.
	secretLine = regexp.MustCompile(
		`(?i)^((?:.*?[\s{(])??"?[\w-]*(?:pas|pwd|secret|token|mac_key|dsn)[\w-]*"?\s*[=:"\s]\s*(?:(?:env|file)\(\s*"[^"]*")?)(.*)$`)
	secretsFileLine = regexp.MustCompile(`^\s*secrets_file\s*=`)         // a path
	secretText      = regexp.MustCompile(`^([\s,]*"?)(.*?)("?[\s)}]*)$`) // within quotes and what closes a block
	hereDoc         = regexp.MustCompile(`<<-?\s*\w`)
)

// maskSecrets replaces what may be an inline password by asterisks of the same length, so that ranges stay true. It
// goes by lines, since it must not depend on the file being valid, and masks too much rather than too little: after a
// multi-line string it gives up on the rest.
func maskSecrets(src []byte) []byte {
	lines := strings.SplitAfter(string(src), "\n")
	all := false
	for i, line := range lines {
		body := strings.TrimRight(line, "\r\n")
		kept, rest := "", body
		if m := secretLine.FindStringSubmatch(body); m != nil && !all && !secretsFileLine.MatchString(body) {
			kept, rest = m[1], m[2]
			all = hereDoc.MatchString(rest)
		} else if !all {
			continue
		}
		m := secretText.FindStringSubmatch(rest)
		lines[i] = kept + m[1] + strings.Repeat("*", len(m[2])) + m[3] + line[len(body):]
	}
	return []byte(strings.Join(lines, ""))
}
