package proxy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestTroubleshooting holds docs/troubleshooting.md to the messages that clients may read: each in a row with its SQLSTATE.
func TestTroubleshooting(t *testing.T) {
	doc, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := constants(t, "../../wire/errorresponse.go")
	found := 0
	for _, file := range []string{"refusal.go", "../../tlsfront/listener.go", "../../tlsfront/negotiate.go"} {
		for _, r := range responses(t, file) {
			found++
			if row := "| " + codes[r.code] + " | " + r.message + " |"; !strings.Contains(string(doc), row) {
				t.Errorf("%s: no row begins with %q", file, row)
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d messages only", found)
	}
}

// response is a message in the source: the name of its code, and its text with … for what is filled in.
type response struct{ code, message string }

// responses finds the ErrorResponse literals of a file whose text stands there.
func responses(t *testing.T, file string) []response {
	t.Helper()
	var list []response
	ast.Inspect(parse(t, file), func(n ast.Node) bool {
		literal, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		var r response
		for _, element := range literal.Elts {
			pair, ok := element.(*ast.KeyValueExpr)
			if !ok {
				continue
			}
			switch key, _ := pair.Key.(*ast.Ident); {
			case key == nil:
			case key.Name == "Code":
				if s, ok := pair.Value.(*ast.SelectorExpr); ok {
					r.code = s.Sel.Name
				}
			case key.Name == "Message":
				r.message = text(pair.Value)
			}
		}
		if r.code != "" && strings.Trim(r.message, "…") != "" {
			list = append(list, r)
		}
		return true
	})
	return list
}

var verb = regexp.MustCompile(`%[a-z]`)

// text returns the text of an expression, with … for what is only known at run time.
func text(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.BasicLit:
		s, _ := strconv.Unquote(x.Value)
		return s
	case *ast.BinaryExpr:
		return text(x.X) + text(x.Y)
	case *ast.CallExpr:
		if f, ok := x.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "Sprintf" {
			return verb.ReplaceAllString(strings.ReplaceAll(text(x.Args[0]), "%q", `"…"`), "…")
		}
	}
	return "…"
}

// constants returns the string constants of a file.
func constants(t *testing.T, file string) map[string]string {
	t.Helper()
	values := make(map[string]string)
	ast.Inspect(parse(t, file), func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == len(spec.Names) {
			for i, name := range spec.Names {
				values[name.Name] = text(spec.Values[i])
			}
		}
		return true
	})
	return values
}

func parse(t *testing.T, file string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
