package wire

import (
	"encoding"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

var (
	_ encoding.BinaryAppender = (*ErrorResponse)(nil)
	_ error                   = (*ErrorResponse)(nil)
)

func TestErrorResponse(t *testing.T) {
	for _, give := range []ErrorResponse{
		{Code: CannotConnectNow, Message: "no server"},
		{Code: InvalidCatalogName, Message: "no such \"database\" é", Detail: "looked for it", Hint: "create it\nnow"},
	} {
		packet, err := give.AppendBinary([]byte("before"))
		if err != nil || string(packet[:6]) != "before" {
			t.Fatalf("got %q, %v", packet, err)
		}
		m, rest, ok, err := CutMessage(packet[6:], MaxLogin)
		if err != nil || !ok || len(rest) != 0 || m.Type != TypeErrorResponse {
			t.Fatalf("no single message: %q, %v", packet, err)
		}
		var got pgproto3.ErrorResponse
		if err := got.Decode(m.Body); err != nil {
			t.Fatal(err)
		}
		want := pgproto3.ErrorResponse{
			Severity: "FATAL", SeverityUnlocalized: "FATAL",
			Code: give.Code, Message: give.Message, Detail: give.Detail, Hint: give.Hint,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if state, err := m.SQLState(); err != nil || state != give.Code {
			t.Errorf("SQLState: got %q, %v", state, err)
		}
	}
}

// Before protocol 3 an error had no length and no fields, which a client of that time would take for text.
func TestErrorResponseLegacy(t *testing.T) {
	e := ErrorResponse{Code: FeatureNotSupported, Message: "unsupported frontend protocol 2.0", Hint: "not sent"}
	got := string(e.AppendLegacy([]byte("before")))
	if want := "beforeEFATAL:  unsupported frontend protocol 2.0\n\x00"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestErrorResponseAsError(t *testing.T) {
	var err error = &ErrorResponse{Code: CannotConnectNow, Message: "no server", Detail: "d", Hint: "h"}
	if got, want := err.Error(), "no server (SQLSTATE 57P03)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
