package wire

import (
	"encoding/binary"
	"io"
	"testing"
	"testing/iotest"
)

// marker stands behind what a test reads, and must still be there afterwards.
const marker = "\xa5marker"

// ways are readers that hand out the same bytes in different pieces.
var ways = []struct {
	name string
	wrap func(io.Reader) io.Reader
}{
	{"whole", func(r io.Reader) io.Reader { return r }},
	{"one byte at a time", iotest.OneByteReader},
	{"half of what is asked", iotest.HalfReader},
	{"last bytes together with EOF", iotest.DataErrReader},
}

// packet is an opening packet: its length word, a code and what follows it.
func packet(code uint32, rest string) []byte {
	return append(binary.BigEndian.AppendUint32(lengthWord(uint32(8+len(rest))), code), rest...)
}

func lengthWord(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// header is the beginning of a message: its type and a length word, true or not.
func header(messageType byte, length uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{messageType}, length)
}

// message is a whole message.
func message(messageType byte, body string) []byte {
	return append(header(messageType, uint32(4+len(body))), body...)
}

// wantRest checks that exactly want is left in r.
func wantRest(t *testing.T, r io.Reader, want string) {
	t.Helper()
	rest, err := io.ReadAll(r)
	if err != nil || string(rest) != want {
		t.Errorf("left unread: %d bytes %.40q, %v; want %d bytes %.40q", len(rest), rest, err, len(want), want)
	}
}
