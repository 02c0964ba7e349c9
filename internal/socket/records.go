package socket

import "encoding/binary"

// recordHeader is the type, version and length before each TLS record (RFC 8446 section 5.1).
const recordHeader = 5

// records follows the boundaries of TLS records in what is read. crypto/tls keeps a buffer as large as the largest piece it
// was given at a time, for as long as the connection lives: a loop that reads much at a time must hand it out by records.
type records struct {
	header [recordHeader]byte // of the record under way
	got    int                // bytes of the header that were read
	left   int                // bytes of the body still to be read
}

// limit is how much may be read without crossing a boundary: of a header, or of a body.
func (r *records) limit() int {
	if r.left > 0 {
		return r.left
	}
	return recordHeader - r.got
}

// advance moves over bytes that were read.
func (r *records) advance(p []byte) {
	for len(p) > 0 {
		n := min(len(p), r.limit())
		if r.left > 0 {
			r.left -= n
		} else if r.got += copy(r.header[r.got:], p[:n]); r.got == recordHeader {
			r.left, r.got = int(binary.BigEndian.Uint16(r.header[3:])), 0
		}
		p = p[n:]
	}
}
