package wire

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

var _ encoding.BinaryAppender = Cancel{}

// Keys have 4 bytes in protocol 3.0, 32 with PostgreSQL 18, and up to 256 by the protocol.
func TestCancelPacket(t *testing.T) {
	for _, n := range []int{1, 4, 32, 255, 256} {
		want := Cancel{ProcessID: 0x80000001, Key: bytes.Repeat([]byte{0, 0x16, 0xff, 'k'}, 64)[:n]}
		reference, err := (&pgproto3.CancelRequest{ProcessID: want.ProcessID, SecretKey: want.Key}).Encode([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := want.AppendBinary([]byte("before"))
		if err != nil || !bytes.Equal(got, reference) {
			t.Errorf("key of %d bytes: AppendBinary gave %q, %v; want %q", n, got, err, reference)
		}
		opening, err := ReadOpening(bytes.NewReader(got[len("before"):]))
		if diff := cmp.Diff(Opening{Kind: KindCancel, Cancel: want}, opening); err != nil || diff != "" {
			t.Errorf("key of %d bytes: %v (-want +got):\n%s", n, err, diff)
		}
	}
}

// Whatever holds a key prints the same with another key in it. As every printing is of two keys, one that shows them
// cannot pass by an encoding this test does not think of.
func TestCancelKeepsItsKey(t *testing.T) {
	holders := map[string]func(Cancel) any{
		"value":   func(c Cancel) any { return c },
		"pointer": func(c Cancel) any { return &c },
		"opening": func(c Cancel) any { return Opening{Kind: KindCancel, Cancel: c} },
		"slice":   func(c Cancel) any { return []Cancel{c} },
		"map":     func(c Cancel) any { return map[string]Cancel{"c": c} },
		"error":   func(c Cancel) any { return fmt.Errorf("no backend for %v", c) },
	}
	printers := map[string]func(any) string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%o", "%80.3v"} {
		printers[verb] = func(v any) string { return fmt.Sprintf(verb, v) }
	}
	printers["text log"] = func(v any) string {
		return logged(v, func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) })
	}
	printers["JSON log"] = func(v any) string {
		return logged(v, func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) })
	}
	a, b := []byte("0123456789abcdef"), []byte("\xff\xfe ZYXWVUTSRQPON")
	for printerName, print := range printers {
		if print(a) == print(b) {
			t.Errorf("%s: two bare keys print as %q: the test sees nothing", printerName, print(a))
		}
		for holderName, hold := range holders {
			gotA, gotB := print(hold(Cancel{42, a})), print(hold(Cancel{42, b}))
			if gotA != gotB {
				t.Errorf("%s of %s shows the key: %q, %q", printerName, holderName, gotA, gotB)
			}
			if strings.Contains(gotA, "PANIC") {
				t.Errorf("%s of %s: got %q", printerName, holderName, gotA)
			}
		}
	}
	if got, want := fmt.Sprint(Cancel{42, a}), "cancel key of process 42"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// logged is the log line that holds v, without its time.
func logged(v any, handler func(io.Writer) slog.Handler) string {
	var line bytes.Buffer
	logger := slog.New(handler(&line))
	logger.Info("m", "v", v, slog.Group("g", "v", v))
	_, rest, _ := strings.Cut(line.String(), "level")
	return rest
}
