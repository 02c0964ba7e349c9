package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// headerLen is the type byte and the length word before every message after the startup packet.
const headerLen = 5

// Limits on a message while a session logs in, by what the peers themselves accept.
const (
	// MaxPassword bounds a client's 'p': PG_MAX_AUTH_TOKEN_LENGTH in src/include/libpq/auth.h.
	MaxPassword = 65535
	// MaxSCRAM bounds a client's 'p' in a SCRAM exchange: PG_MAX_SASL_MESSAGE_LENGTH in src/include/libpq/sasl.h.
	MaxSCRAM = 1024
	// MaxLogin bounds a server's message before ReadyForQuery: an ErrorResponse may have 30,000 bytes in libpq's eyes
	// (src/interfaces/libpq/fe-connect.c), all others far less.
	MaxLogin = 30000
	// MaxReady bounds a server's message between AuthenticationOk and ReadyForQuery, where a notice may be long; the limit
	// is ours.
	MaxReady = 1 << 20
)

// Message is one message: its type byte and its body. The body is the Reader's and valid until its next call.
type Message struct {
	Type byte
	Body []byte
}

// Append appends the message as it stands on the wire to b.
func (m Message) Append(b []byte) []byte {
	b = append(b, m.Type)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.Body)+4))
	return append(b, m.Body...)
}

// CutMessage splits the first message off b. ok is false while b does not hold all of it. A body longer than limit is
// refused by its header alone, with ErrLength. The message's body is part of b.
func CutMessage(b []byte, limit int) (m Message, rest []byte, ok bool, err error) {
	if len(b) < headerLen {
		return Message{}, b, false, nil
	}
	size, err := bodyLen(b, limit)
	if err != nil || len(b) < headerLen+size {
		return Message{}, b, false, err
	}
	end := headerLen + size
	return Message{Type: b[0], Body: b[headerLen:end:end]}, b[end:], true, nil
}

// bodyLen returns the length of the body that a header announces.
func bodyLen(header []byte, limit int) (int, error) {
	size := int64(binary.BigEndian.Uint32(header[1:])) - 4
	if size < 0 || size > int64(limit) {
		return 0, fmt.Errorf("%w of message %q: %d bytes", ErrLength, header[0], size+4)
	}
	return int(size), nil
}

// Reader reads whole messages, exactly, for the login, where every message is looked at and none is large. Afterwards a
// [Walker] follows the stream instead. A Reader may be interrupted by a read deadline in the middle of a message and then
// be asked again; what it has read by then is kept, and Partial returns it.
//
// The zero value is not usable; a Reader is for one goroutine at a time.
type Reader struct {
	r    io.Reader
	buf  []byte // the message under way: header, then body
	n    int    // bytes of buf read so far
	done bool   // buf holds a whole message that was handed out
}

// NewReader returns a Reader of r. It never holds more of r than the message under way.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: r, buf: make([]byte, headerLen, 512)}
}

// Await waits until the first byte of the next message is there, or the stream has ended. The byte is kept for Next. It may be
// interrupted as Next may.
func (r *Reader) Await() error {
	r.begin()
	return r.fill(1)
}

// begin makes room for the next message where the last one was handed out.
func (r *Reader) begin() {
	if r.done {
		r.buf, r.n, r.done = r.buf[:headerLen], 0, false
	}
}

// Next reads one message with a body of at most limit bytes; a longer one is refused by its header alone, with ErrLength.
// A clean end between messages is io.EOF. After an error that is a timeout Next may be called again.
func (r *Reader) Next(limit int) (Message, error) {
	r.begin()
	if err := r.fill(headerLen); err != nil {
		return Message{}, err
	}
	size, err := bodyLen(r.buf, limit)
	if err != nil {
		return Message{}, err
	}
	want := headerLen + size
	r.buf = slices.Grow(r.buf[:headerLen], size)[:want]
	if err := r.fill(want); err != nil {
		return Message{}, err
	}
	r.done = true
	return Message{Type: r.buf[0], Body: r.buf[headerLen:]}, nil
}

// fill reads until n bytes of the message are there.
func (r *Reader) fill(n int) error {
	for r.n < n {
		m, err := r.r.Read(r.buf[r.n:n])
		r.n += m
		if err != nil && r.n < n {
			if r.n > 0 {
				return unexpected(err)
			}
			return err
		}
	}
	return nil
}

// Partial returns the bytes of a message that an error cut short, for whoever reads the stream on. They are the caller's.
func (r *Reader) Partial() []byte {
	if r.done {
		return nil
	}
	return slices.Clone(r.buf[:r.n])
}
