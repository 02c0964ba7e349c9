package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// FuzzReadOpening: nothing is read beyond the packet, what was understood is all that the packet said, and every refusal
// is one of those that the contract names.
func FuzzReadOpening(f *testing.F) {
	for _, seed := range [][]byte{
		nil,
		{0x16},
		{0x16, 3, 1},
		lengthWord(7), lengthWord(10005), lengthWord(1<<32 - 1),
		packet(codeSSL, ""), packet(codeSSL, "stuffed"), packet(codeGSSENC, ""),
		append(packet(codeSSL, ""), packet(v3, "user\x00u\x00\x00")...),
		packet(codeCancel, "\x00\x00\x00\x07abcd"), packet(codeCancel, "\x00\x00\x00\x00abcd"),
		packet(v3, "user\x00u\x00\x00"), packet(v3|9999, "_pq_.a\x00\x00user\x00u\x00\x00Q"), packet(2<<16, "x"),
		packet(v3, "user\x00u\x00database\x00d_ro\x00replication\x00database\x00\x00"),
		packet(v3, "user\x00u\x00user\x00v\x00\x00"), packet(v3, "user\x00\x00\x00\x00"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		opening, err := ReadOpening(r)
		used := data[:len(data)-r.Len()]
		if err != nil {
			wantOpeningError(t, err, data, used)
			return
		}
		var again []byte
		switch opening.Kind {
		case KindStartup:
			again, _ = opening.Startup.AppendBinary(nil)
			wantDatabaseRewritten(t, opening.Startup)
		case KindCancel:
			again, _ = opening.Cancel.AppendBinary(nil)
		case KindSSL:
			again = packet(codeSSL, "")
		case KindGSSENC:
			again = packet(codeGSSENC, "")
		case KindTLS:
			again = []byte{0x16}
		}
		if !bytes.Equal(again, used) {
			t.Errorf("read %q, which is %+v, which is %q", used, opening, again)
		}
	})
}

func wantOpeningError(t *testing.T, err error, data, used []byte) {
	t.Helper()
	var version *VersionError
	switch {
	case errors.Is(err, io.EOF) && len(data) == 0:
	case errors.Is(err, io.ErrUnexpectedEOF) && len(used) == len(data):
	case errors.Is(err, ErrLength) && len(used) >= 4, errors.Is(err, ErrMalformed), errors.As(err, &version):
		if len(used) > 4 && uint32(len(used)) != binary.BigEndian.Uint32(used) {
			t.Errorf("%d bytes read of a packet of %d: %v", len(used), binary.BigEndian.Uint32(used), err)
		}
	default:
		t.Errorf("%d of %d bytes read: unexpected %v", len(used), len(data), err)
	}
}

// wantDatabaseRewritten sends s to another database, as a session does, and reads what a server would.
func wantDatabaseRewritten(t *testing.T, s Startup) {
	t.Helper()
	_, _ = s.Replication() // any value may come
	const database = "d"
	b, _ := s.With("database", database).AppendBinary(nil)
	if len(b) > maxStartupPacket+4 {
		return
	}
	got, err := ReadOpening(bytes.NewReader(b))
	if err != nil || got.Startup.Database() != database || got.Startup.User() != s.User() {
		t.Errorf("%+v for another database became %+v, %v", s, got.Startup, err)
	}
	isDatabase := func(p Param) bool { return p.Name == "database" }
	if !slices.Equal(slices.DeleteFunc(slices.Clone(s.Params), isDatabase), slices.DeleteFunc(got.Startup.Params, isDatabase)) {
		t.Errorf("%+v for another database lost other parameters: %+v", s, got.Startup)
	}
}

// messageSeeds are streams for the targets that take one.
var messageSeeds = [][]byte{
	nil,
	{'Z', 0, 0}, // half a header
	header('Q', 0),
	header('Q', 3),
	header('Q', 1<<32-1), // -1 to who takes it for signed
	header('p', 1<<31),
	header('S', 4), // no body
	loginBytes(),
	append(message('Z', "I"), message('Z', "T")...),
	message('Z', "IT"), // too long to be an answer
	slices.Concat(message('P', "\x00"), message('E', ""), message('S', ""), header('X', 4)),
}

// FuzzCutMessage: cutting messages from a buffer and reading them from a stream are the same.
func FuzzCutMessage(f *testing.F) {
	for _, seed := range messageSeeds {
		f.Add(seed, uint16(1000))
	}
	f.Add(message('Z', "II"), uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, limit uint16) {
		r := NewReader(bytes.NewReader(data))
		for rest := data; ; {
			cut, after, ok, cutErr := CutMessage(rest, int(limit))
			read, readErr := r.Next(int(limit))
			switch {
			case ok:
				if cutErr != nil || readErr != nil || cut.Type != read.Type || !bytes.Equal(cut.Body, read.Body) {
					t.Fatalf("cut %+v, %v; read %+v, %v", cut, cutErr, read, readErr)
				}
				if again := append(cut.Append(nil), after...); !bytes.Equal(again, rest) || len(cut.Body) > int(limit) {
					t.Fatalf("%q was cut to %+v and %q", rest, cut, after)
				}
				rest = after
				continue
			case errors.Is(cutErr, ErrLength):
				if !errors.Is(readErr, ErrLength) || !bytes.Equal(r.Partial(), rest[:headerLen]) {
					t.Errorf("cut: %v; read: %v, and %q", cutErr, readErr, r.Partial())
				}
			case cutErr != nil || !bytes.Equal(r.Partial(), rest):
				t.Errorf("cut: %v; partly read: %q of %q", cutErr, r.Partial(), rest)
			case len(rest) == 0 && readErr != io.EOF, len(rest) > 0 && readErr != io.ErrUnexpectedEOF:
				t.Errorf("at the end, before %q: got %v", rest, readErr)
			}
			if !bytes.Equal(after, rest) {
				t.Errorf("%q left of %q although nothing was cut", after, rest)
			}
			return
		}
	})
}

// FuzzWalker: the pieces that a stream comes in make no difference. Each byte of splits is the length of a piece.
func FuzzWalker(f *testing.F) {
	for _, seed := range messageSeeds {
		f.Add(seed, []byte{1, 0, 2, 5})
	}
	f.Fuzz(func(t *testing.T, data, splits []byte) {
		var whole, split Walker
		wholeEnd, wholeErr := whole.Walk(data)
		splitEnd, at := -1, 0
		var splitErr error
		for at < len(data) && splitErr == nil {
			next := len(data)
			if len(splits) > 0 {
				next, splits = min(next, at+int(splits[0])), splits[1:]
			}
			var end int
			if end, splitErr = split.Walk(data[at:next]); end >= 0 {
				splitEnd = at + end
			}
			at = next
		}
		if whole != split || wholeEnd != splitEnd || (wholeErr == nil) != (splitErr == nil) {
			t.Errorf("whole: %d, %v, %+v\nsplit: %d, %v, %+v", wholeEnd, wholeErr, whole, splitEnd, splitErr, split)
		}
		if wholeErr != nil {
			if !errors.Is(wholeErr, ErrLength) {
				t.Errorf("unexpected %v", wholeErr)
			}
		} else if end, want := naive(data); told(&whole) != want || max(wholeEnd, 0) != end {
			t.Errorf("walked to %d, %+v; naive %d, %+v", wholeEnd, told(&whole), end, want)
		}
	})
}

// FuzzMechanisms: a list that is read is all that was sent, and means the same to pgproto3.
func FuzzMechanisms(f *testing.F) {
	for _, seed := range []string{"", "\x00", "\x00\x00", "a\x00\x00", "SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00", "a\x00\x00b\x00\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := ParseMechanisms(data)
		if err != nil {
			return
		}
		body := AppendMechanisms(nil, names)[headerLen:]
		if !bytes.Equal(body[4:], data) || slices.Contains(names, "") {
			t.Errorf("%q was read as %q", data, names)
		}
		var reference pgproto3.AuthenticationSASL
		if err := reference.Decode(body); err != nil || !slices.Equal(reference.AuthMechanisms, names) {
			t.Errorf("read as %q, by pgproto3 as %q, %v", names, reference.AuthMechanisms, err)
		}
	})
}

// FuzzSASLInitialResponse: a response that is read is all that was sent.
func FuzzSASLInitialResponse(f *testing.F) {
	const name = "SCRAM-SHA-256\x00"
	for _, seed := range []string{
		"", name, name + "\x00\x00\x00", name + "\x00\x00\x00\x00", name + "\x00\x00\x00\x02n,", name + "\x00\x00\x00\x03n,",
		name + "\xff\xff\xff\xff", name + "\xff\xff\xff\xffn,", name + "\xff\xff\xff\xfe", name + "\x7f\xff\xff\xff", "\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ParseSASLInitialResponse(body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrLength) || got.Data != nil || got.Mechanism != "" {
				t.Errorf("unexpected %+v, %v", got, err)
			}
			return
		}
		size := uint32(len(got.Data))
		if got.Data == nil {
			size = 1<<32 - 1
		}
		again := append(binary.BigEndian.AppendUint32([]byte(got.Mechanism+"\x00"), size), got.Data...)
		if !bytes.Equal(again, body) {
			t.Errorf("%q was read as %+v", body, got)
		}
	})
}

// FuzzErrorFields: an SQLSTATE that is found is a field of the message, and one that pgproto3 finds is found.
func FuzzErrorFields(f *testing.F) {
	for _, seed := range []string{
		"", "\x00", "SFATAL\x00C57P03\x00Mno\x00\x00", "C57P03", "C\x00\x00", "C57P0\x00C28000\x00\x00", "S\x00\x00C28000\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := Message{Type: TypeErrorResponse, Body: body}.SQLState()
		fields, _, _ := strings.Cut("\x00"+string(body), "\x00\x00")
		if err == nil && (len(got) != 5 || !strings.Contains(fields+"\x00", "\x00C"+got+"\x00")) {
			t.Errorf("found %q in %q", got, body)
		}
		var reference pgproto3.ErrorResponse
		if reference.Decode(body) == nil && len(reference.Code) == 5 && err != nil {
			t.Errorf("found nothing in %q, pgproto3 %q", body, reference.Code)
		}
	})
}

// FuzzMessage: what the small readers take is all that the message said.
func FuzzMessage(f *testing.F) {
	for _, seed := range [][]byte{
		message('R', "\x00\x00\x00\x05salt"), message('R', "\x00"), message('S', "in_hot_standby\x00on\x00"), message('S', "a\x00b"),
		message('K', "\x00\x00\x00\x07abcd"), message('K', "\x00\x00\x00\x07"), message('K', "\x00\x00\x00\x00abcd"),
	} {
		f.Add(seed[0], seed[headerLen:])
	}
	f.Fuzz(func(t *testing.T, messageType byte, body []byte) {
		m := Message{Type: messageType, Body: body}
		if code, rest, err := m.Authentication(); err == nil {
			if again := append(binary.BigEndian.AppendUint32(nil, uint32(code)), rest...); messageType != 'R' || !bytes.Equal(again, body) {
				t.Errorf("%q %q was read as %d, %q", messageType, body, code, rest)
			}
		}
		if name, value, ok := m.ParameterStatus(); ok && (messageType != 'S' || name+"\x00"+value+"\x00" != string(body)) {
			t.Errorf("%q %q was read as %q, %q", messageType, body, name, value)
		}
		if key, err := ParseBackendKeyData(m); err == nil {
			packet, _ := key.AppendBinary(nil)
			if messageType != 'K' || key.ProcessID == 0 || !bytes.Equal(packet[8:], body) {
				t.Errorf("%q %q was read as process %d", messageType, body, key.ProcessID)
			}
		}
	})
}
