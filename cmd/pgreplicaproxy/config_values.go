package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
)

// converter turns the raw file into a config and gathers whatever is wrong on the way. A value that is wrong is
// reported once and replaced by its default, so that the rest of the file is still looked at.
type converter struct {
	// dir is the directory of the file: relative paths start here.
	dir string
	// secrets is false where passwords and keys are to stay unread; adminToken excepts the admin listener's token from that.
	secrets, adminToken bool
	eval                *hcl.EvalContext
	diags               hcl.Diagnostics
}

// fail reports an error at a place of the file. The detail says what to write instead.
func (c *converter) fail(at hcl.Range, summary, detail string, args ...any) {
	c.report(hcl.DiagError, at, summary, detail, args)
}

// warn reports what works but an operator should know.
func (c *converter) warn(at hcl.Range, summary, detail string, args ...any) {
	c.report(hcl.DiagWarning, at, summary, detail, args)
}

func (c *converter) report(s hcl.DiagnosticSeverity, at hcl.Range, summary, detail string, args []any) {
	c.diags = append(c.diags, &hcl.Diagnostic{
		Severity: s, Summary: summary, Detail: fmt.Sprintf(detail, args...), Subject: &at,
	})
}

// What value says of a value of another type.
const (
	aString = "a string in double quotes"
	aBool   = "true or false"
	anInt   = "a whole number"
	aList   = `a list of strings, such as ["a", "b"]`
)

// value evaluates an argument. It is false for one that was left out, and for one that is wrong, which is then reported.
func value[T any](c *converter, a *hcl.Attribute, want string) (T, bool) {
	var none T
	if a == nil {
		return none, false
	}
	return evaluate[T](c, a.Name, a.Expr, want)
}

// evaluate does without gohcl's decoding of expressions, which follows every failed function call with a second error.
func evaluate[T any](c *converter, name string, x hcl.Expression, want string) (T, bool) {
	var out T
	v, diags := x.Value(c.eval)
	c.diags = append(c.diags, plainly(diags)...)
	if diags.HasErrors() {
		return out, false
	}
	err := errors.New("null")
	if !v.IsNull() {
		if t, terr := gocty.ImpliedType(out); terr != nil {
			err = terr
		} else if v, err = convert.Convert(v, t); err == nil {
			err = gocty.FromCtyValue(v, &out)
		}
	}
	if err != nil {
		c.fail(x.Range(), "Wrong type of value", "%s takes %s.", name, want)
		return out, false
	}
	return out, true
}

// plainly takes HCL's words about parameters from around what env and file have to say themselves.
func plainly(diags hcl.Diagnostics) hcl.Diagnostics {
	for _, d := range diags {
		call, ok := hcl.DiagnosticExtra[hclsyntax.FunctionCallDiagExtra](d)
		if ok && call.FunctionCallError() != nil {
			d.Summary = "No value from " + call.CalledFunctionName()
			d.Detail = sentence(call.FunctionCallError().Error()) + "."
		}
	}
	return diags
}

// text returns a string that has to hold something: an empty one is reported, since leaving the argument out says it
// better.
func (c *converter) text(a *hcl.Attribute, fallback string) string {
	s, ok := value[string](c, a, aString)
	if !ok {
		return fallback
	}
	if s == "" {
		c.fail(a.Expr.Range(), "Empty value", "%s must not be empty. Leave the argument out if it is not needed.", a.Name)
		return fallback
	}
	return s
}

// name is text for names that end up in startup packets, SQL and logs: one line, no NUL.
func (c *converter) name(a *hcl.Attribute, fallback string) string {
	s := c.text(a, fallback)
	if strings.ContainsFunc(s, unicode.IsControl) {
		c.fail(a.Expr.Range(), "Control character in a name", "%s must be plain text on one line.", a.Name)
		return fallback
	}
	return s
}

func (c *converter) boolean(a *hcl.Attribute, fallback bool) bool {
	if b, ok := value[bool](c, a, aBool); ok {
		return b
	}
	return fallback
}

// duration returns a duration of at least least.
func (c *converter) duration(a *hcl.Attribute, fallback, least time.Duration) time.Duration {
	s, ok := value[string](c, a, aString)
	if !ok {
		return fallback
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		c.fail(a.Expr.Range(), "Not a duration", `%s takes a number with its unit, such as "500ms", "10s" or "2m"; got %q.`, a.Name, s)
		return fallback
	}
	if d < least {
		c.fail(a.Expr.Range(), "Duration too short", "%s must be at least %v.", a.Name, least)
		return fallback
	}
	return d
}

// rangeOf is where to point for an argument that may have been left out.
func rangeOf(a *hcl.Attribute, block hcl.Range) hcl.Range {
	if a == nil {
		return block
	}
	return a.Expr.Range()
}

// sentence gives the text of an error a capital to begin with, unless it begins with a name.
func sentence(s string) string {
	first, rest, _ := strings.Cut(s, " ")
	if strings.ContainsFunc(first, func(r rune) bool { return !unicode.IsLetter(r) }) {
		return s
	}
	return strings.ToUpper(first[:1]) + first[1:] + " " + rest
}

// word is one element of a list.
type word struct {
	text string
	at   hcl.Range
}

func (c *converter) words(a *hcl.Attribute) []word {
	if a == nil {
		return nil
	}
	elements, diags := hcl.ExprList(a.Expr)
	if diags.HasErrors() {
		c.fail(a.Expr.Range(), "Wrong type of value", "%s takes %s.", a.Name, aList)
		return nil
	}
	var list []word
	for _, x := range elements {
		if s, ok := evaluate[string](c, a.Name, x, aList); ok {
			list = append(list, word{s, x.Range()})
		}
	}
	return list
}

// choice returns what parse makes of a word. The error of parse names the words there are.
func choice[T any](c *converter, a *hcl.Attribute, fallback T, parse func(string) (T, error)) T {
	s, ok := value[string](c, a, aString)
	if !ok {
		return fallback
	}
	v, err := parse(s)
	if err != nil {
		c.fail(a.Expr.Range(), "Unknown word", "%v.", err)
		return fallback
	}
	return v
}

// oneOf returns a parser for the words of a table; what names the set in its error.
func oneOf[T any](what string, table map[string]T) func(string) (T, error) {
	return func(s string) (T, error) {
		v, ok := table[s]
		if !ok {
			return v, fmt.Errorf("%q is not %s: write one of %s", s, what, quoted(slices.Sorted(maps.Keys(table))))
		}
		return v, nil
	}
}

// quoted lists names for a sentence.
func quoted(names []string) string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = fmt.Sprintf("%q", name)
	}
	return strings.Join(list, ", ")
}

// path makes a path of the file complete: relative ones start at the file's own directory. An empty one stays empty.
func (c *converter) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}
