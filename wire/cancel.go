package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
)

// maxCancelKey is the longest secret key of protocol 3.2 ("Message Formats", BackendKeyData); 3.0 has 4 bytes.
const maxCancelKey = 256

// Cancel is a CancelRequest, and equally the BackendKeyData that makes one possible: the process of a session and the
// secret that lets its query be cancelled. Formatting it never shows the secret.
type Cancel struct {
	ProcessID uint32
	Key       []byte `json:"-"` // slog's JSON handler does not ask LogValue of what lies inside another value
}

// parseCancel reads a CancelRequest behind its code, or the body of a BackendKeyData: the two are the same.
func parseCancel(body []byte) (Cancel, error) {
	if n := len(body) - 4; n < 1 || n > maxCancelKey {
		return Cancel{}, fmt.Errorf("%w of cancel key: %d bytes", ErrLength, n)
	}
	c := Cancel{ProcessID: binary.BigEndian.Uint32(body), Key: append([]byte(nil), body[4:]...)}
	if c.ProcessID == 0 {
		return Cancel{}, fmt.Errorf("%w: cancel request for process 0", ErrMalformed)
	}
	return c, nil
}

// AppendBinary appends the CancelRequest packet to b. It never fails; the error is for encoding.BinaryAppender.
func (c Cancel) AppendBinary(b []byte) ([]byte, error) {
	b = binary.BigEndian.AppendUint32(b, uint32(12+len(c.Key)))
	b = binary.BigEndian.AppendUint32(b, codeCancel)
	b = binary.BigEndian.AppendUint32(b, c.ProcessID)
	return append(b, c.Key...), nil
}

// LogValue keeps the key out of logs.
func (c Cancel) LogValue() slog.Value { return slog.Uint64Value(uint64(c.ProcessID)) }

// Format keeps the key out of every fmt verb.
func (c Cancel) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, fmt.Sprintf("cancel key of process %d", c.ProcessID))
}
