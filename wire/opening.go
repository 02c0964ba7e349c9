package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind tells the packets apart with which a client may open a connection.
type Kind uint8

// The kinds of opening. The zero value is none of them.
const (
	// KindStartup is a StartupMessage; Opening.Startup holds it.
	KindStartup Kind = iota + 1
	// KindSSL is an SSLRequest: the client waits for one byte, S or N.
	KindSSL
	// KindGSSENC is a GSSENCRequest: the client waits for one byte, G or N.
	KindGSSENC
	// KindCancel is a CancelRequest; Opening.Cancel holds it.
	KindCancel
	// KindTLS is no packet but the first byte of a TLS record (0x16): the client opens with TLS directly. Only that one
	// byte was read, and the caller must put it back before the handshake.
	KindTLS
)

var kindNames = map[Kind]string{
	KindStartup: "StartupMessage", KindSSL: "SSLRequest", KindGSSENC: "GSSENCRequest",
	KindCancel: "CancelRequest", KindTLS: "TLS ClientHello",
}

// String returns the manual's name of the packet.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("Kind(%d)", k)
}

// Request codes stand where a StartupMessage has its version: major 1234, which no protocol will ever have
// (src/include/libpq/pqcomm.h).
const (
	codeCancel = 1234<<16 | 5678
	codeSSL    = 1234<<16 | 5679
	codeGSSENC = 1234<<16 | 5680
)

// TLSRecordHandshake is the first byte of a TLS connection (RFC 8446 section 5.1), which no length-prefixed packet
// within the limits can begin with.
const TLSRecordHandshake = 0x16

// maxStartupPacket is the longest opening packet without its length word: MAX_STARTUP_PACKET_LENGTH in
// src/include/libpq/pqcomm.h.
const maxStartupPacket = 10000

// Errors that a caller tests for. All are wrapped with what was found.
var (
	// ErrLength is a packet or message whose length is impossible or beyond the limit.
	ErrLength = errors.New("invalid length")
	// ErrMalformed is a packet of acceptable length whose content breaks the protocol.
	ErrMalformed = errors.New("malformed packet")
)

// VersionError is a StartupMessage of a protocol that this package does not speak: any major version but 3.
type VersionError struct{ Version Version }

// Error names the version in the words of PostgreSQL's own message.
func (e *VersionError) Error() string {
	return fmt.Sprintf("unsupported frontend protocol %s", e.Version)
}

// Opening is one packet that a client opened a connection with: a sum of Kind's cases.
type Opening struct {
	Kind    Kind
	Startup Startup // with KindStartup
	Cancel  Cancel  // with KindCancel
}

// ReadOpening reads one opening packet from r and not a byte more. A clean end before the first byte is io.EOF, one
// within the packet io.ErrUnexpectedEOF. Errors wrap ErrLength, ErrMalformed or a *VersionError; an error of r is
// returned as it is.
func ReadOpening(r io.Reader) (Opening, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return Opening{}, err
	}
	if head[0] == TLSRecordHandshake {
		return Opening{Kind: KindTLS}, nil
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return Opening{}, unexpected(err)
	}
	// The length counts itself; the code that follows is part of every opening packet.
	n := int64(binary.BigEndian.Uint32(head[:])) - 4
	if n < 4 || n > maxStartupPacket {
		return Opening{}, fmt.Errorf("%w of startup packet: %d bytes", ErrLength, n+4)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return Opening{}, unexpected(err)
	}
	return parseOpening(body)
}

// parseOpening reads an opening packet without its length word.
func parseOpening(body []byte) (Opening, error) {
	code, rest := binary.BigEndian.Uint32(body), body[4:]
	switch code {
	case codeSSL, codeGSSENC:
		if len(rest) != 0 {
			return Opening{}, fmt.Errorf("%w: %d bytes after a negotiation request", ErrMalformed, len(rest))
		}
		if code == codeSSL {
			return Opening{Kind: KindSSL}, nil
		}
		return Opening{Kind: KindGSSENC}, nil
	case codeCancel:
		c, err := parseCancel(rest)
		return Opening{Kind: KindCancel, Cancel: c}, err
	}
	s, err := parseStartup(Version(code), rest)
	return Opening{Kind: KindStartup, Startup: s}, err
}

// unexpected turns an end of input inside a packet into io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
