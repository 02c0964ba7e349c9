package wire

import (
	"encoding"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var _ encoding.BinaryAppender = Startup{}

// readStartup reads the StartupMessage with this version and this parameter list.
func readStartup(version uint32, list string) (Startup, error) {
	opening, err := ReadOpening(strings.NewReader(string(packet(version, list))))
	return opening.Startup, err
}

func TestStartupParams(t *testing.T) {
	huge := strings.Repeat("h", 4000)
	for _, test := range []struct {
		name, list string
		want       []Param
	}{
		{"none", "\x00", nil},
		{"order kept", "user\x00u\x00database\x00d\x00a\x001\x00\x00", []Param{{"user", "u"}, {"database", "d"}, {"a", "1"}}},
		{"repeats kept", "a\x001\x00b\x002\x00a\x003\x00a\x001\x00\x00", []Param{{"a", "1"}, {"b", "2"}, {"a", "3"}, {"a", "1"}}},
		{"_pq_ options kept", "_pq_.grease\x00on\x00user\x00u\x00\x00", []Param{{"_pq_.grease", "on"}, {"user", "u"}}},
		{"empty values", "user\x00\x00database\x00\x00\x00", []Param{{"user", ""}, {"database", ""}}},
		{"huge", huge + "\x00" + huge + "\x00\x00", []Param{{huge, huge}}},
		{"binary", "\xff\xfe\x16\x00\x01\n\x1b[2J%s\x00\x00", []Param{{"\xff\xfe\x16", "\x01\n\x1b[2J%s"}}},
		// The server compares names byte by byte, so these are three different ones to it.
		{"no folding of names", "user\x00u\x00User\x00v\x00USER\x00w\x00\x00", []Param{{"user", "u"}, {"User", "v"}, {"USER", "w"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, version := range []uint32{v3, v3 | 2, v3 | 9999} {
				got, err := readStartup(version, test.list)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(Startup{Version: Version(version), Params: test.want}, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if again, err := got.AppendBinary([]byte("before")); err != nil || string(again) != "before"+string(packet(version, test.list)) {
					t.Errorf("AppendBinary: got %q, %v; want the packet that was read", again, err)
				}
			}
		})
	}
}

func TestStartupRefusesParams(t *testing.T) {
	for name, list := range map[string]string{
		"nothing at all":                "",
		"list without terminator":       "user\x00u\x00",
		"name without end":              "user",
		"name without value":            "user\x00",
		"second name without value":     "user\x00u\x00database\x00",
		"value without end":             "user\x00u",
		"empty name not last":           "\x00user\x00u\x00\x00",
		"empty name between":            "user\x00u\x00\x00database\x00d\x00\x00",
		"bytes behind the terminator":   "user\x00u\x00\x00x",
		"a second terminator":           "user\x00u\x00\x00\x00",
		"NUL in the middle of a value":  "user\x00u\x00v\x00\x00",
		"user twice":                    "user\x00u\x00user\x00v\x00\x00",
		"user twice, same value":        "user\x00u\x00a\x00b\x00user\x00u\x00\x00",
		"database twice":                "database\x00d\x00user\x00u\x00database\x00e\x00\x00",
		"database twice, first empty":   "database\x00\x00database\x00e\x00\x00",
		"replication twice":             "replication\x00false\x00replication\x00true\x00\x00",
		"first byte of a query behind":  "user\x00u\x00\x00Q",
		"parameters without separators": strings.Repeat("x", 9000),
	} {
		if got, err := readStartup(v3, list); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v; want ErrMalformed", name, got, err)
		}
	}
}

// A packet full of different names must not cost more than reading it: it comes before any authentication.
func BenchmarkReadManyParams(b *testing.B) {
	var list []byte
	for i := range 2490 {
		list = append(list, byte(i%250+1), byte(i/250+1), 0, 0)
	}
	list = append(list, 0)
	for b.Loop() {
		if s, err := readStartup(v3, string(list)); err != nil || len(s.Params) != 2490 {
			b.Fatal(len(s.Params), err)
		}
	}
}

func TestStartupGet(t *testing.T) {
	s := Startup{Params: []Param{{"a", "1"}, {"b", ""}, {"a", "2"}}}
	for _, test := range []struct {
		name, want string
		ok         bool
	}{
		{"a", "2", true}, {"b", "", true}, {"c", "", false}, {"A", "", false}, {"", "", false},
	} {
		if got, ok := s.Get(test.name); got != test.want || ok != test.ok {
			t.Errorf("Get(%q): got %q, %v; want %q, %v", test.name, got, ok, test.want, test.ok)
		}
	}
}

func TestStartupDatabase(t *testing.T) {
	for _, test := range []struct {
		name           string
		params         []Param
		user, database string
	}{
		{"both", []Param{{"database", "d"}, {"user", "u"}}, "u", "d"},
		{"no database: the user's", []Param{{"user", "u"}}, "u", "u"},
		{"empty database: the user's", []Param{{"user", "u"}, {"database", ""}}, "u", "u"},
		{"no user", []Param{{"database", "d"}}, "", "d"},
		{"neither", nil, "", ""},
		{"dbname is a word of libpq only", []Param{{"user", "u"}, {"dbname", "d"}}, "u", "u"},
	} {
		s := Startup{Params: test.params}
		if s.User() != test.user || s.Database() != test.database {
			t.Errorf("%s: got %q, %q; want %q, %q", test.name, s.User(), s.Database(), test.user, test.database)
		}
	}
}

func TestStartupWith(t *testing.T) {
	for _, test := range []struct {
		name       string
		give, want []Param
	}{
		{
			"replaced in place",
			[]Param{{"a", "1"}, {"database", "d"}, {"user", "u"}, {"a", "2"}},
			[]Param{{"a", "1"}, {"database", "new"}, {"user", "u"}, {"a", "2"}},
		},
		{"empty one replaced", []Param{{"database", ""}, {"user", "u"}}, []Param{{"database", "new"}, {"user", "u"}}},
		{"appended", []Param{{"user", "u"}}, []Param{{"user", "u"}, {"database", "new"}}},
		{"appended to nothing", nil, []Param{{"database", "new"}}},
		// No client can send this, for reading refuses it; the last is the one that counts.
		{
			"repeated",
			[]Param{{"database", "d"}, {"database", "e"}},
			[]Param{{"database", "d"}, {"database", "new"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			give := append(make([]Param, 0, 8), test.give...) // with room, which an append must not use
			before := Startup{Version: v3 | 2, Params: give}
			got := before.With("database", "new")
			if diff := cmp.Diff(Startup{Version: v3 | 2, Params: append([]Param{}, test.want...)}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Database() != "new" {
				t.Errorf("Database: got %q", got.Database())
			}
			if diff := cmp.Diff(append([]Param{}, test.give...), give); diff != "" || give[:len(give)+1][len(give)].Name != "" {
				t.Errorf("the original was changed:\n%s", diff)
			}
		})
	}
}

// The spellings are parse_bool's (src/backend/utils/adt/bool.c): any case, and any prefix that is not ambiguous.
func TestStartupReplication(t *testing.T) {
	for want, values := range map[bool][]string{
		true: {
			"t", "T", "tr", "tru", "true", "TRUE", "tRuE", "y", "Y", "ye", "yes", "YES", "on", "ON", "oN", "1",
			"database", // logical replication; in this spelling alone
		},
		false: {"f", "F", "fa", "fal", "fals", "false", "FALSE", "n", "N", "no", "NO", "of", "OF", "off", "OFF", "0"},
	} {
		for _, value := range values {
			s := Startup{Params: []Param{{"replication", value}}}
			if got, err := s.Replication(); err != nil || got != want {
				t.Errorf("%q: got %v, %v; want %v", value, got, err, want)
			}
		}
	}
	for _, value := range []string{
		"", "o", "O", " ", "true ", " true", "truex", "yess", "onn", "offf", "nope", "falsey", "01", "10", "00", "2", "-1",
		"Database", "DATABASE", "databas", "d", "physical", "ye\u017f", "fal\u017fe", "\xff",
	} {
		s := Startup{Params: []Param{{"replication", value}}}
		if got, err := s.Replication(); !errors.Is(err, ErrMalformed) || got {
			t.Errorf("%q: got %v, %v; want ErrMalformed", value, got, err)
		}
	}
	if got, err := (Startup{Params: []Param{{"user", "replication"}}}).Replication(); got || err != nil {
		t.Errorf("not asked for: got %v, %v", got, err)
	}
}

func TestVersion(t *testing.T) {
	for version, want := range map[Version]string{v3: "3.0", v3 | 2: "3.2", v3 | 9999: "3.9999", 2 << 16: "2.0", 1<<32 - 1: "65535.65535"} {
		if got := version.String(); got != want {
			t.Errorf("%#x: got %q, want %q", uint32(version), got, want)
		}
	}
	if v := Version(v3 | 9999); v.Major() != 3 || v.Minor() != 9999 {
		t.Errorf("got %d and %d", v.Major(), v.Minor())
	}
}
