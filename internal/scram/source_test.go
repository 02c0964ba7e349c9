package scram

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestComparesInConstantTime: whatever compares bytes in this package does it with crypto/subtle. bytes.HasPrefix is not on
// the list, because all it looks at is a nonce, which its sender knows.
func TestComparesInConstantTime(t *testing.T) {
	forbidden := map[string]bool{
		"bytes.Equal": true, "bytes.Compare": true, "bytes.EqualFold": true, "slices.Equal": true, "slices.Compare": true,
		"reflect.DeepEqual": true, "strings.Compare": true,
	}
	keys := map[string]bool{"StoredKey": true, "ServerKey": true, "signature": true, "proof": true, "stored": true, "mask": true, "key": true}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	constant := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SelectorExpr:
				used := expression(n)
				if forbidden[used] {
					t.Errorf("%s uses %s", name, used)
				}
				if used == "subtle.ConstantTimeCompare" {
					constant++
				}
			case *ast.BinaryExpr:
				x, y := expression(n.X), expression(n.Y)
				if (n.Op == token.EQL || n.Op == token.NEQ) && y != "nil" && (keys[base(x)] || keys[base(y)]) {
					t.Errorf("%s compares keys: %s %v %s", name, x, n.Op, y)
				}
			}
			return true
		})
	}
	if constant < 8 {
		t.Errorf("subtle.ConstantTimeCompare is used %d times, want 8 or more", constant)
	}
}

// base is the last name of a selector.
func base(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }

// expression writes names and selectors, and nothing for the rest.
func expression(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return expression(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return expression(e.X)
	}
	return ""
}
