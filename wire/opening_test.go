package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const v3 = 3 << 16

// longest is the parameter list that fills a startup packet to the last byte: length word 10004.
var longest = "user\x00" + strings.Repeat("u", maxStartupPacket-4-len("user\x00\x00\x00")) + "\x00\x00"

func TestReadOpening(t *testing.T) {
	key := strings.Repeat("k", maxCancelKey)
	for _, test := range []struct {
		name   string
		packet []byte
		want   Opening
	}{
		{"startup", packet(v3, "user\x00u\x00\x00"), Opening{
			Kind: KindStartup, Startup: Startup{Version: v3, Params: []Param{{"user", "u"}}},
		}},
		{"longest startup", packet(v3, longest), Opening{
			Kind: KindStartup, Startup: Startup{Version: v3, Params: []Param{{"user", longest[5 : len(longest)-2]}}},
		}},
		{"SSLRequest", packet(codeSSL, ""), Opening{Kind: KindSSL}},
		{"GSSENCRequest", packet(codeGSSENC, ""), Opening{Kind: KindGSSENC}},
		{"cancel of protocol 3.0", packet(codeCancel, "\x00\x00\x01\x02abcd"), Opening{
			Kind: KindCancel, Cancel: Cancel{ProcessID: 0x102, Key: []byte("abcd")},
		}},
		{"longest cancel", packet(codeCancel, "\xff\xff\xff\xff"+key), Opening{
			Kind: KindCancel, Cancel: Cancel{ProcessID: 1<<32 - 1, Key: []byte(key)},
		}},
		{"first byte of TLS, and only that", []byte{0x16}, Opening{Kind: KindTLS}},
	} {
		for _, way := range ways {
			t.Run(test.name+"/"+way.name, func(t *testing.T) {
				r := way.wrap(strings.NewReader(string(test.packet) + marker))
				got, err := ReadOpening(r)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				wantRest(t, r, marker)
			})
		}
	}
}

// A length is refused by the length word alone: nothing behind it is read, whatever it claims.
func TestReadOpeningRefusesLength(t *testing.T) {
	for _, length := range []uint32{0, 1, 2, 3, 4, 5, 6, 7, 10005, 1 << 16, 0x15ffffff, 0x17000000, 1 << 31, 1<<32 - 1} {
		for _, way := range ways {
			r := way.wrap(strings.NewReader(string(lengthWord(length)) + marker))
			if got, err := ReadOpening(r); !errors.Is(err, ErrLength) {
				t.Errorf("length %d, %s: got %+v, %v; want ErrLength", length, way.name, got, err)
			}
			wantRest(t, r, marker)
		}
	}
}

// Bytes of other protocols and messages that belong to later stages are no opening.
func TestReadOpeningRefusesStrangers(t *testing.T) {
	for _, first := range []string{
		"GET / HTTP/1.1\r\n\r\n", "EHLO localhost\r\n", "SSH-2.0-x\r\n",
		string(message('p', "secret\x00")), string(message('Q', "select 1\x00")), string(message('X', "")),
	} {
		r := strings.NewReader(first)
		if got, err := ReadOpening(r); !errors.Is(err, ErrLength) {
			t.Errorf("%q: got %+v, %v; want ErrLength", first, got, err)
		}
		wantRest(t, r, first[4:])
	}
}

// A packet that is refused for its content is read to its end and not further.
func TestReadOpeningRefusesContent(t *testing.T) {
	const cancelPID = "\x00\x00\x00\x01"
	for _, test := range []struct {
		name   string
		packet []byte
		want   error
	}{
		{"version and nothing else", packet(v3, ""), ErrMalformed},
		{"SSLRequest with a byte more", packet(codeSSL, "x"), ErrMalformed},
		{"SSLRequest with parameters", packet(codeSSL, "user\x00u\x00\x00"), ErrMalformed},
		{"GSSENCRequest with a byte more", packet(codeGSSENC, "\x00"), ErrMalformed},
		{"cancel without process", packet(codeCancel, ""), ErrLength},
		{"cancel with half a process", packet(codeCancel, cancelPID[:2]), ErrLength},
		{"cancel without key", packet(codeCancel, cancelPID), ErrLength},
		{"cancel with a key too long", packet(codeCancel, cancelPID+strings.Repeat("k", maxCancelKey+1)), ErrLength},
		{"cancel of process 0", packet(codeCancel, "\x00\x00\x00\x00abcd"), ErrMalformed},
	} {
		for _, way := range ways {
			r := way.wrap(strings.NewReader(string(test.packet) + marker))
			if got, err := ReadOpening(r); !errors.Is(err, test.want) {
				t.Errorf("%s, %s: got %+v, %v; want %v", test.name, way.name, got, err, test.want)
			}
			wantRest(t, r, marker)
		}
	}
}

func TestReadOpeningRefusesVersion(t *testing.T) {
	for version, want := range map[uint32]string{
		0:              "unsupported frontend protocol 0.0",
		1 << 16:        "unsupported frontend protocol 1.0",
		2 << 16:        "unsupported frontend protocol 2.0",
		4 << 16:        "unsupported frontend protocol 4.0",
		codeGSSENC + 1: "unsupported frontend protocol 1234.5681",
		1<<32 - 1:      "unsupported frontend protocol 65535.65535",
	} {
		// Protocol 2 had a body of fixed size without terminator: the version is told before the body is looked at.
		r := strings.NewReader(string(packet(version, "user u")) + marker)
		_, err := ReadOpening(r)
		var refused *VersionError
		if !errors.As(err, &refused) || refused.Version != Version(version) || err.Error() != want {
			t.Errorf("version %#x: got %v, want %q", version, err, want)
		}
		wantRest(t, r, marker)
	}
}

// An end or an error of the connection is told apart by where it came.
func TestReadOpeningOfBrokenConnection(t *testing.T) {
	errBroken := errors.New("broken")
	for _, whole := range [][]byte{
		packet(v3, "user\x00u\x00\x00"), packet(codeSSL, ""), packet(codeCancel, "\x00\x00\x00\x01abcd"),
	} {
		for n := range whole {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := ReadOpening(bytes.NewReader(whole[:n])); err != want {
				t.Errorf("end after %q: got %v, want %v", whole[:n], err, want)
			}
			r := io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(errBroken))
			if _, err := ReadOpening(r); !errors.Is(err, errBroken) {
				t.Errorf("error after %q: got %v, want %v", whole[:n], err, errBroken)
			}
		}
	}
}

func TestKindString(t *testing.T) {
	got := fmt.Sprint(Kind(0), KindStartup, KindSSL, KindGSSENC, KindCancel, KindTLS)
	if want := "Kind(0) StartupMessage SSLRequest GSSENCRequest CancelRequest TLS ClientHello"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The request codes are those that the manual writes in decimal ("Message Formats").
func TestRequestCodes(t *testing.T) {
	for code, want := range map[uint32]uint32{codeCancel: 80877102, codeSSL: 80877103, codeGSSENC: 80877104} {
		if code != want {
			t.Errorf("got %d, want %d", code, want)
		}
	}
}
