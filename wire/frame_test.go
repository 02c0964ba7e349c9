package wire

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// login is a stream of messages as a login has them: empty, small, and larger than what a Reader begins with.
var login = []struct {
	messageType byte
	body        string
}{
	{'R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"},
	{'H', ""},
	{'p', strings.Repeat("x", 700)},
	{'Z', "I"},
	{0, "\x00"},
}

func loginBytes() []byte {
	var b []byte
	for _, m := range login {
		b = append(b, message(m.messageType, m.body)...)
	}
	return b
}

func TestReaderReadsExactly(t *testing.T) {
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for whole := range len(login) + 1 {
				stream := way.wrap(strings.NewReader(string(loginBytes()) + marker))
				rest := string(loginBytes()) + marker
				r := NewReader(stream)
				for _, want := range login[:whole] {
					got, err := r.Next(MaxLogin)
					if err != nil || got.Type != want.messageType || string(got.Body) != want.body {
						t.Fatalf("got %q %.40q, %v; want %q %.40q", got.Type, got.Body, err, want.messageType, want.body)
					}
					if again := got.Append([]byte("before")); string(again) != "before"+rest[:5+len(want.body)] {
						t.Errorf("Append: got %.60q", again)
					}
					if p := r.Partial(); len(p) != 0 {
						t.Errorf("Partial behind a whole message: %q", p)
					}
					rest = rest[5+len(want.body):]
				}
				wantRest(t, stream, rest)
			}
		})
	}
}

// A header is enough to refuse a message: nothing behind it is read, and nothing is allocated for it.
func TestReaderLimit(t *testing.T) {
	for _, test := range []struct {
		limit   int
		length  uint32
		refused bool
	}{
		{10, 0, true},
		{10, 1, true},
		{10, 2, true},
		{10, 3, true},
		{10, 4, false},
		{10, 14, false},
		{10, 15, true},
		{0, 4, false},
		{0, 5, true},
		{MaxPassword, MaxPassword + 4, false},
		{MaxPassword, MaxPassword + 5, true},
		{MaxLogin, 1 << 30, true},
		{MaxLogin, 1<<31 - 1, true},
		{MaxLogin, 1 << 31, true},
		{MaxLogin, 1<<32 - 1, true}, // as an int32 this is -1
		{1<<31 - 1, 1<<32 - 1, true},
	} {
		for _, way := range ways {
			body := strings.Repeat("b", int(min(max(test.length, 4)-4, 100_000)))
			head := string(header('p', test.length))
			stream := way.wrap(strings.NewReader(head + body + marker))
			r := NewReader(stream)
			got, err := r.Next(test.limit)
			if !test.refused {
				if err != nil || string(got.Body) != body {
					t.Errorf("length %d, limit %d: got %d bytes, %v", test.length, test.limit, len(got.Body), err)
				}
				continue
			}
			if !errors.Is(err, ErrLength) {
				t.Errorf("length %d, limit %d: got %v; want ErrLength", test.length, test.limit, err)
			}
			if p := string(r.Partial()); p != head || cap(r.buf) > 512 {
				t.Errorf("length %d: holds %q in %d bytes; want the header alone", test.length, p, cap(r.buf))
			}
			wantRest(t, stream, body+marker)
		}
	}
}

func TestReaderOfBrokenConnection(t *testing.T) {
	errBroken := errors.New("broken")
	stream := message('p', "password\x00")
	for n := range len(stream) {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, err := NewReader(bytes.NewReader(stream[:n])).Next(100); err != want {
			t.Errorf("end after %d bytes: got %v, want %v", n, err, want)
		}
		r := NewReader(io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(errBroken)))
		if _, err := r.Next(100); !errors.Is(err, errBroken) {
			t.Errorf("error after %d bytes: got %v, want %v", n, err, errBroken)
		}
		if p := r.Partial(); !bytes.Equal(p, stream[:n]) {
			t.Errorf("error after %d bytes: Partial gave %q", n, p)
		}
	}
}

// onceLate is a connection whose read deadline strikes once, after n bytes: in a read of its own, or together with the
// bytes before it, as an io.Reader may.
type onceLate struct {
	r        io.Reader
	n        int
	together bool
	struck   bool
}

func (l *onceLate) Read(p []byte) (int, error) {
	if l.struck {
		return l.r.Read(p)
	}
	if l.n == 0 {
		l.struck = true
		return 0, os.ErrDeadlineExceeded
	}
	n, err := l.r.Read(p[:min(len(p), l.n)])
	l.n -= n
	if l.n == 0 && l.together {
		l.struck = true
		return n, os.ErrDeadlineExceeded
	}
	return n, err
}

// A deadline may strike at any byte of any message: what was read is kept, shown by Partial, and read on from.
func TestReaderResumes(t *testing.T) {
	stream := loginBytes()
	for n := range stream {
		for _, together := range []bool{false, true} {
			r, begin := NewReader(&onceLate{r: bytes.NewReader(stream), n: n, together: together}), 0
			for i := 0; i < len(login); {
				m, err := r.Next(MaxLogin)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					p := r.Partial()
					if !bytes.Equal(p, stream[begin:n]) {
						t.Fatalf("deadline after %d bytes: Partial gave %q, want %q", n, p, stream[begin:n])
					}
					clear(p) // it is the caller's
					continue
				}
				if err != nil || m.Type != login[i].messageType || string(m.Body) != login[i].body {
					t.Fatalf("deadline after %d bytes: message %d is %q %.40q, %v", n, i, m.Type, m.Body, err)
				}
				begin += headerLen + len(m.Body)
				i++
			}
		}
	}
}

func TestReaderPartialBeforeAnything(t *testing.T) {
	r := NewReader(strings.NewReader(marker))
	if p := r.Partial(); len(p) != 0 {
		t.Errorf("got %q", p)
	}
}

func TestCutMessage(t *testing.T) {
	for _, test := range []struct {
		name  string
		in    string
		limit int
		want  Message
		rest  string
		ok    bool
		err   error
	}{
		{name: "nothing", in: ""},
		{name: "half a header", in: "Z\x00\x00\x00", rest: "Z\x00\x00\x00"},
		{name: "header alone", in: "Z\x00\x00\x00\x05", limit: 1, rest: "Z\x00\x00\x00\x05"},
		{name: "half a body", in: "S\x00\x00\x00\x08ab", limit: 4, rest: "S\x00\x00\x00\x08ab"},
		{name: "no body", in: "H\x00\x00\x00\x04", want: Message{Type: 'H'}, ok: true},
		{name: "one message", in: "Z\x00\x00\x00\x05I", limit: 1, want: Message{'Z', []byte("I")}, ok: true},
		{name: "one and the beginning of another", in: "Z\x00\x00\x00\x05IZ\x00", limit: 1, want: Message{'Z', []byte("I")}, rest: "Z\x00", ok: true},
		{name: "beyond the limit, by the header", in: "Z\x00\x00\x00\x06", limit: 1, rest: "Z\x00\x00\x00\x06", err: ErrLength},
		{name: "beyond the limit, though it is there", in: "Z\x00\x00\x00\x06II", limit: 1, rest: "Z\x00\x00\x00\x06II", err: ErrLength},
		{name: "length 3", in: "Z\x00\x00\x00\x03", limit: 1, rest: "Z\x00\x00\x00\x03", err: ErrLength},
		{name: "length 0", in: "Z\x00\x00\x00\x00", limit: 1, rest: "Z\x00\x00\x00\x00", err: ErrLength},
		{name: "length 2^31", in: "Z\x80\x00\x00\x00", limit: 1, rest: "Z\x80\x00\x00\x00", err: ErrLength},
		{name: "length 2^32-1", in: "Z\xff\xff\xff\xff", limit: 1<<31 - 1, rest: "Z\xff\xff\xff\xff", err: ErrLength},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, rest, ok, err := CutMessage([]byte(test.in), test.limit)
			if ok != test.ok || !errors.Is(err, test.err) || string(rest) != test.rest ||
				got.Type != test.want.Type || !bytes.Equal(got.Body, test.want.Body) {
				t.Errorf("got %q %q, rest %q, %v, %v", got.Type, got.Body, rest, ok, err)
			}
		})
	}
}

// The body is part of the buffer, but what is appended to it does not run into the next message.
func TestCutMessageBodyEndsWhereItEnds(t *testing.T) {
	b := append(message('S', "a\x00b\x00"), message('Z', "I")...)
	m, rest, _, err := CutMessage(b, MaxLogin)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(m.Body, "overrun"...)
	if want := string(message('Z', "I")); string(rest) != want {
		t.Errorf("the next message became %q, want %q", rest, want)
	}
}
