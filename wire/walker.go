package wire

import (
	"encoding/binary"
	"fmt"
)

// Walker follows the message boundaries of one direction of a session, over the pieces in which the bytes happen to
// arrive. It copies nothing and allocates nothing: per message it looks at the five bytes of the header, and at the one
// byte of a ReadyForQuery. The zero value stands at a boundary. A Walker is for one goroutine at a time.
type Walker struct {
	left   uint32 // bytes of the current body still to come
	got    uint8  // bytes of the current header seen
	header [headerLen]byte

	status   byte
	open     bool
	ended    bool
	answers  uint64
	requests uint64
}

// maxBody is beyond what any message can have: PostgreSQL caps its large ones at MaxAllocSize - 1
// (PQ_LARGE_MESSAGE_LIMIT in src/include/libpq/libpq.h). A longer one says that the stream is not what it seems.
const maxBody = 0x3fffffff

// Walk moves over the next piece of the stream. It returns the offset behind the last message that ends in p, or -1 when
// none does: up to there p can be cut without tearing a message. An error wraps ErrLength and is final.
func (w *Walker) Walk(p []byte) (boundary int, err error) {
	boundary = -1
	for i := 0; i < len(p); {
		if w.got < headerLen {
			n := copy(w.header[w.got:], p[i:])
			w.got += uint8(n)
			i += n
			if w.got < headerLen {
				return boundary, nil
			}
			size := binary.BigEndian.Uint32(w.header[1:])
			if size < 4 || size-4 > maxBody {
				return boundary, fmt.Errorf("%w of message %q: %d bytes", ErrLength, w.header[0], size)
			}
			w.left = size - 4
			w.count(w.header[0])
		}
		if n := uint32(min(len(p)-i, maxBody+1)); n < w.left {
			w.left -= n
			return boundary, nil
		}
		// The length is the header's: one byte that is left may be the last of a longer body.
		if w.header[0] == TypeReadyForQuery && binary.BigEndian.Uint32(w.header[1:]) == 4+1 {
			w.status = p[i]
			w.answers++
		}
		i += int(w.left)
		w.left, w.got = 0, 0
		boundary = i
	}
	return boundary, nil
}

// count notes what a client's message asks for ("Message Flow"). The types of the server's messages mean other things;
// in its direction the counts are not used.
func (w *Walker) count(messageType byte) {
	switch messageType {
	case 'Q', 'F', 'S': // Query, FunctionCall, Sync
		w.requests++
		w.open = false
	case 'P', 'B', 'D', 'E', 'C', 'H': // Parse, Bind, Describe, Execute, Close, Flush
		w.open = true
	case 'X': // Terminate
		w.ended = true
	}
}

// AtBoundary reports whether the stream stands between two messages.
func (w *Walker) AtBoundary() bool { return w.got == 0 }

// Status is, in the server's direction, the transaction status of the last ReadyForQuery that was walked over: 'I' idle,
// 'T' in a transaction, 'E' in a failed one; zero before the first.
func (w *Walker) Status() byte { return w.status }

// Last is the type of the message that the stream stands in, or behind; zero before the first.
func (w *Walker) Last() byte { return w.header[0] }

// Answers is, in the server's direction, the number of ReadyForQuery messages walked over.
func (w *Walker) Answers() uint64 { return w.answers }

// Requests is, in the client's direction, the number of messages begun that a ReadyForQuery will answer: Query,
// FunctionCall and Sync. A Sync inside COPY FROM STDIN is counted although the server ignores it, so the number may be
// larger than that of the answers that come, never smaller.
func (w *Walker) Requests() uint64 { return w.requests }

// Open reports, in the client's direction, whether messages of the extended query protocol wait for their Sync.
func (w *Walker) Open() bool { return w.open }

// Terminated reports, in the client's direction, whether a Terminate was seen: the close that follows is no failure.
func (w *Walker) Terminated() bool { return w.ended }
