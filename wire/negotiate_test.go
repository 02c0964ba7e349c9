package wire

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestNegotiate(t *testing.T) {
	const version31, version39 = Version30 + 1, Version30 + 9999
	user, database := Param{"user", "app"}, Param{"database", "app"}
	option, other := Param{"_pq_.first", "on"}, Param{"_pq_.second", ""}
	for name, test := range map[string]struct {
		version, newest Version
		params          []Param
		settled         Startup
		declined        []string
	}{
		"as it is":      {Version30, Version32, []Param{user, database}, Startup{Version30, []Param{user, database}}, nil},
		"the newest":    {Version32, Version32, []Param{user}, Startup{Version32, []Param{user}}, nil},
		"newer":         {Version32, Version30, []Param{user}, Startup{Version30, []Param{user}}, nil},
		"of the future": {version39, Version32, []Param{user}, Startup{Version32, []Param{user}}, nil},
		"in between":    {version31, Version32, []Param{user}, Startup{version31, []Param{user}}, nil},
		"option":        {Version30, Version32, []Param{user, option}, Startup{Version30, []Param{user}}, []string{"_pq_.first"}},
		"options in the midst": {
			version39, Version30,
			[]Param{option, user, other, database},
			Startup{Version30, []Param{user, database}},
			[]string{"_pq_.first", "_pq_.second"},
		},
		"option given twice":  {Version30, Version30, []Param{option, user, option}, Startup{Version30, []Param{user}}, []string{"_pq_.first", "_pq_.first"}},
		"not quite an option": {Version30, Version30, []Param{user, {"_pq_", "x"}, {"_PQ_.x", "x"}}, Startup{Version30, []Param{user, {"_pq_", "x"}, {"_PQ_.x", "x"}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			asked := Startup{Version: test.version, Params: append([]Param(nil), test.params...)}
			settled, declined := asked.Negotiate(test.newest)
			if diff := cmp.Diff(test.settled, settled); diff != "" {
				t.Errorf("settled (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.declined, declined); diff != "" {
				t.Errorf("declined (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(Startup{test.version, test.params}, asked); diff != "" {
				t.Errorf("the packet itself was changed (-want +got):\n%s", diff)
			}
		})
	}
}

// What is appended is read by pgproto3 as it was meant, behind what was there before.
func TestAppendNegotiateProtocolVersion(t *testing.T) {
	for _, options := range [][]string{nil, {"_pq_.one"}, {"_pq_.one", "_pq_.two"}} {
		b := AppendNegotiateProtocolVersion([]byte("before"), Version32, options)
		message, found := bytes.CutPrefix(b, []byte("before"))
		if !found {
			t.Fatalf("got %q", b)
		}
		m, rest, ok, err := CutMessage(message, MaxLogin)
		if err != nil || !ok || len(rest) > 0 || m.Type != TypeNegotiateProtocolVersion {
			t.Fatalf("got %q: %v", message, err)
		}
		var read pgproto3.NegotiateProtocolVersion
		if err := read.Decode(m.Body); err != nil {
			t.Fatal(err)
		}
		if got := Version(3<<16 | read.NewestMinorProtocol&0xffff); got != Version32 {
			t.Errorf("got version %v, want %v", got, Version32)
		}
		if diff := cmp.Diff(options, read.UnrecognizedOptions); diff != "" && len(options)+len(read.UnrecognizedOptions) > 0 {
			t.Errorf("options (-want +got):\n%s", diff)
		}
	}
}

// The body is that of the manual, and what ParseSASLInitialResponse reads.
func TestAppendSASLInitialResponse(t *testing.T) {
	got := AppendSASLInitialResponse([]byte("x"), MechanismSCRAM, []byte("n,,n=,r=abc"))
	if want := "xSCRAM-SHA-256\x00\x00\x00\x00\x0bn,,n=,r=abc"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, data := range []string{"", "y", "a\x00b", string(make([]byte, 1000))} {
		read, err := ParseSASLInitialResponse(AppendSASLInitialResponse(nil, MechanismSCRAMPlus, []byte(data)))
		if err != nil || read.Mechanism != MechanismSCRAMPlus || string(read.Data) != data || read.Data == nil {
			t.Errorf("%q: got %+v, %v", data, read, err)
		}
	}
}
