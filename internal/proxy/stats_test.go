package proxy

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/scram"
	"github.com/replicon/pgreplicaproxy/policy"
)

func TestReasonOf(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want Reason
	}{
		{io.ErrShortWrite, ReasonInternal},
		{clientError(io.EOF), ReasonClientGone},
		{errors.Join(errTimeout, errUnreachable(policy.Decision{})), ReasonTimeout},
		{errors.Join(errUnreachable(policy.Decision{}), errWrongRole("db1", policy.Decision{})), ReasonUnreachable},
		{clientScramError(scram.ErrProof, "bob"), ReasonPassword},
		{&serverError{sqlState: "28P01"}, ReasonPassword},
		{&serverError{sqlState: "53300"}, ReasonServer},
		{errNoServer(policy.Decision{Verdict: policy.Wait}, 0), ReasonNoServer},
		{errNoRoute(policy.Decision{}, policy.Request{}), ReasonNoRoute},
		{refuse(ReasonEnded, errShutdown), ReasonEnded},
	} {
		if got := reasonOf(tc.err); got != tc.want {
			t.Errorf("%v: got %q, want %q", tc.err, got, tc.want)
		}
	}
}

// Whatever a client may read has a reason, except what ends sessions that were logged in.
func TestRefusalsHaveReasons(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "refusal.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	responses, reasons := 0, 0
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			if s, ok := n.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "ErrorResponse" {
				responses++
			}
		case *ast.CallExpr:
			if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "refuse" {
				reasons++
			}
		}
		return true
	})
	const without = 8 // errShutdown, errAged, errMoved, errAdministrator, errFenced, errDraining, errRemoved, errInternal
	if responses != reasons+without {
		t.Errorf("%d answers to clients, %d with a reason, want all but %d", responses, reasons, without)
	}
}

// docs/operations.md explains every reason.
func TestReasonsAreDocumented(t *testing.T) {
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "stats.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	reasons := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") {
			return true
		}
		reasons++
		word := strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`)
		if !strings.Contains(string(docs), "\n| `"+word+"` |") {
			t.Errorf("docs/operations.md does not explain the reason %s", word)
		}
		return true
	})
	if reasons < 10 {
		t.Errorf("found %d reasons only", reasons)
	}
}
