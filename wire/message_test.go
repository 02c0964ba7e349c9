package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestAuthentication(t *testing.T) {
	for _, test := range []struct {
		name string
		give Message
		code AuthCode
		rest string
		err  error
	}{
		{"ok", Message{'R', []byte("\x00\x00\x00\x00")}, AuthOK, "", nil},
		{"md5 and its salt", Message{'R', []byte("\x00\x00\x00\x05salt")}, AuthMD5, "salt", nil},
		{"code not known", Message{'R', []byte("\xff\xff\xff\xffx")}, 1<<32 - 1, "x", nil},
		{"empty", Message{'R', nil}, 0, "", ErrMalformed},
		{"three bytes", Message{'R', []byte("\x00\x00\x00")}, 0, "", ErrMalformed},
		{"ok and more", Message{'R', []byte("\x00\x00\x00\x00R\x00\x00\x00\x08")}, 0, "", ErrMalformed},
		{"password and more", Message{'R', []byte("\x00\x00\x00\x03x")}, 0, "", ErrMalformed},
		{"md5 without its salt", Message{'R', []byte("\x00\x00\x00\x05")}, 0, "", ErrMalformed},
		{"md5 and more than its salt", Message{'R', []byte("\x00\x00\x00\x05salty")}, 0, "", ErrMalformed},
		{"another message", Message{'Z', []byte("\x00\x00\x00\x00")}, 0, "", ErrMalformed},
	} {
		code, rest, err := test.give.Authentication()
		if code != test.code || string(rest) != test.rest || !errors.Is(err, test.err) {
			t.Errorf("%s: got %d, %q, %v", test.name, code, rest, err)
		}
	}
}

func TestMechanismsRoundTrip(t *testing.T) {
	for _, names := range [][]string{
		{MechanismSCRAM},
		{MechanismSCRAMPlus, MechanismSCRAM},
		{MechanismSCRAMPlus, MechanismSCRAM, MechanismOAuth},
		{"x", "\xff unknown"},
	} {
		packet := AppendMechanisms([]byte("before"), names)[len("before"):]
		m, rest, ok, err := CutMessage(packet, MaxLogin)
		if err != nil || !ok || len(rest) != 0 {
			t.Fatalf("%q: no single message: %q, %v", names, packet, err)
		}
		var reference pgproto3.AuthenticationSASL
		if err := reference.Decode(m.Body); err != nil || !cmp.Equal(reference.AuthMechanisms, names) {
			t.Errorf("pgproto3 reads %q, %v; want %q", reference.AuthMechanisms, err, names)
		}
		code, data, err := m.Authentication()
		if err != nil || code != AuthSASL {
			t.Errorf("got code %d, %v", code, err)
		}
		if got, err := ParseMechanisms(data); err != nil || !cmp.Equal(got, names) {
			t.Errorf("got %q, %v; want %q", got, err, names)
		}
	}
}

func TestParseMechanismsRefuses(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":                 "",
		"empty list":              "\x00",
		"empty name":              "\x00\x00",
		"end of list missing":     "SCRAM-SHA-256\x00",
		"end of name missing":     "SCRAM-SHA-256",
		"empty name first":        "\x00SCRAM-SHA-256\x00\x00",
		"empty name between":      "a\x00\x00b\x00\x00",
		"a zero byte more":        "a\x00\x00\x00",
		"bytes behind the end":    "a\x00\x00b",
		"only zero bytes":         "\x00\x00\x00\x00",
		"zero byte in the middle": "a\x00\x00\x00b\x00\x00",
	} {
		if got, err := ParseMechanisms([]byte(data)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %q, %v; want ErrMalformed", name, got, err)
		}
	}
}

func TestSASLInitialResponse(t *testing.T) {
	const none, first = "SCRAM-SHA-256\x00", "n,,n=,r=abc"
	for _, test := range []struct {
		name, body string
		data       []byte
		err        error
	}{
		{"data", none + "\x00\x00\x00\x0b" + first, []byte(first), nil},
		{"no data (-1)", none + "\xff\xff\xff\xff", nil, nil},
		{"empty data, which is not none", none + "\x00\x00\x00\x00", []byte{}, nil},
		{"length larger than what follows", none + "\x00\x00\x00\x0c" + first, nil, ErrLength},
		{"length smaller than what follows", none + "\x00\x00\x00\x0a" + first, nil, ErrLength},
		{"length 0 with data", none + "\x00\x00\x00\x00" + first, nil, ErrLength},
		{"length -1 with data", none + "\xff\xff\xff\xff" + first, nil, ErrLength},
		{"length -2", none + "\xff\xff\xff\xfe", nil, ErrLength},
		{"length -2^31", none + "\x80\x00\x00\x00", nil, ErrLength},
		{"length 2^31-1", none + "\x7f\xff\xff\xff" + first, nil, ErrLength},
		{"nothing", "", nil, ErrMalformed},
		{"name without end", "SCRAM-SHA-256", nil, ErrMalformed},
		{"no length", none, nil, ErrMalformed},
		{"half a length", none + "\x00\x00\x00", nil, ErrMalformed},
		{"a password", "secret\x00", nil, ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseSASLInitialResponse([]byte(test.body))
			want := SASLInitialResponse{}
			if test.err == nil {
				want = SASLInitialResponse{Mechanism: MechanismSCRAM, Data: test.data}
			}
			if diff := cmp.Diff(want, got); diff != "" || !errors.Is(err, test.err) { // cmp tells nil from empty
				t.Errorf("got %v, want %v (-want +got):\n%s", err, test.err, diff)
			}
			if test.err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows what the client sent: %v", err)
			}
		})
	}
}

func TestSASLInitialResponseAsPgproto3WritesIt(t *testing.T) {
	for _, data := range [][]byte{[]byte("n,,n=,r=abc"), bytes.Repeat([]byte{0, 0xff}, 512)} {
		packet, err := (&pgproto3.SASLInitialResponse{AuthMechanism: MechanismSCRAMPlus, Data: data}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseSASLInitialResponse(packet[headerLen:])
		if want := (SASLInitialResponse{MechanismSCRAMPlus, data}); err != nil || !cmp.Equal(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

func TestBackendKeyData(t *testing.T) {
	key := bytes.Repeat([]byte{0, 1, 0xff, 'k'}, 65)
	for _, n := range []int{4, 32, 256} {
		packet, err := (&pgproto3.BackendKeyData{ProcessID: 7, SecretKey: key[:n]}).Encode(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseBackendKeyData(Message{Type: packet[0], Body: packet[headerLen:]})
		clear(packet) // the key is a copy
		if diff := cmp.Diff(Cancel{7, key[:n]}, got); err != nil || diff != "" {
			t.Errorf("key of %d bytes: %v (-want +got):\n%s", n, err, diff)
		}
	}
	for _, test := range []struct {
		name string
		give Message
		want error
	}{
		{"another message", Message{'Z', []byte("\x00\x00\x00\x07abcd")}, ErrMalformed},
		{"nothing", Message{'K', nil}, ErrLength},
		{"half a process", Message{'K', []byte("\x00\x00\x00")}, ErrLength},
		{"no key", Message{'K', []byte("\x00\x00\x00\x07")}, ErrLength},
		{"key too long", Message{'K', append([]byte("\x00\x00\x00\x07"), key[:257]...)}, ErrLength},
		{"process 0", Message{'K', []byte("\x00\x00\x00\x00abcd")}, ErrMalformed},
	} {
		got, err := ParseBackendKeyData(test.give)
		if !errors.Is(err, test.want) || got.Key != nil {
			t.Errorf("%s: got %v, %v; want %v", test.name, got, err, test.want)
		}
	}
}

func TestParameterStatus(t *testing.T) {
	for _, test := range []struct {
		give        Message
		name, value string
		ok          bool
	}{
		{Message{'S', []byte("in_hot_standby\x00off\x00")}, "in_hot_standby", "off", true},
		{Message{'S', []byte("application_name\x00\x00")}, "application_name", "", true},
		{Message{'S', nil}, "", "", false},
		{Message{'S', []byte("a\x00")}, "", "", false},
		{Message{'S', []byte("a\x00b")}, "", "", false},
		{Message{'S', []byte("a\x00b\x00c")}, "", "", false},
		{Message{'S', []byte("a\x00b\x00c\x00")}, "", "", false},
		{Message{'S', []byte("a\x00b\x00\x00")}, "", "", false},
		{Message{'K', []byte("a\x00b\x00")}, "", "", false},
	} {
		name, value, ok := test.give.ParameterStatus()
		if name != test.name || value != test.value || ok != test.ok {
			t.Errorf("%q %q: got %q, %q, %v", test.give.Type, test.give.Body, name, value, ok)
		}
	}
}

func TestSQLState(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"as a server sends it", "SFATAL\x00VFATAL\x00C57P03\x00Mstarting up\x00\x00", "57P03"},
		{"first field", "C28000\x00\x00", "28000"},
		{"the first of two", "C28000\x00C57P03\x00\x00", "28000"},
		{"empty values before it", "S\x00V\x00C28000\x00\x00", "28000"},
		{"no terminator", "SFATAL\x00C28000\x00", "28000"}, // what is there counts
		{"no terminator, nor the field's", "SFATAL\x00C28000", "28000"},
		{"nothing", "", ""},
		{"terminator alone", "\x00", ""},
		{"no code", "SFATAL\x00Mnow\x00\x00", ""},
		{"empty code", "SFATAL\x00C\x00\x00", ""},
		{"code too short", "C5700\x00\x00", ""},
		{"code too long", "C57P030\x00\x00", ""},
		{"c is the name of a column", "c57P03\x00\x00", ""},
		{"within a text", "MC57P03\x00\x00", ""},
		{"behind the terminator", "SFATAL\x00\x00C57P03\x00\x00", ""},
	} {
		got, err := Message{Type: TypeErrorResponse, Body: []byte(test.body)}.SQLState()
		if got != test.want || (err == nil) != (test.want != "") || err != nil && !errors.Is(err, ErrNoSQLState) {
			t.Errorf("%s: got %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}
