package scram

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
)

const (
	mechanismPlain = "SCRAM-SHA-256"
	mechanismPlus  = "SCRAM-SHA-256-PLUS"

	// headerPlain and headerPlus are the gs2 headers that a Client sends. Never "y": it says that the server cannot
	// bind, and a server that can must refuse it.
	headerPlain = "n,,"
	headerPlus  = "p=tls-server-end-point,,"

	// maxClientMessage is PG_MAX_SASL_MESSAGE_LENGTH of src/include/libpq/sasl.h.
	maxClientMessage = 1024
	// maxServerMessage is what libpq reads of an authentication message (src/interfaces/libpq/fe-connect.c).
	maxServerMessage = 2000
	// rawNonce is SCRAM_RAW_NONCE_LEN of src/include/common/scram-common.h.
	rawNonce = 18
)

// newNonce returns this side's part of the nonce.
func newNonce() []byte {
	var raw [rawNonce]byte
	_, _ = rand.Read(raw[:]) // never fails
	return base64.StdEncoding.AppendEncode(nil, raw[:])
}

// clientFirst is a client-first-message; its slices are parts of the message.
type clientFirst struct {
	flag   byte   // of the gs2 header: 'n', 'y' or 'p'
	header []byte // the gs2 header with both commas
	bare   []byte // the rest
	nonce  []byte
}

// parseClientFirst reads "n,,n=<ignored>,r=<nonce>[,extensions]", with any of the gs2 flags. PostgreSQL takes the user's name
// from the startup packet.
func parseClientFirst(message []byte) (clientFirst, error) {
	if len(message) == 0 || len(message) > maxClientMessage {
		return clientFirst{}, fmt.Errorf("%w: %d bytes", ErrProtocol, len(message))
	}
	flag, rest, _ := bytes.Cut(message, comma)
	authzid, bare, found := bytes.Cut(rest, comma)
	switch {
	case !found || len(flag) == 0:
		return clientFirst{}, fmt.Errorf("%w: incomplete gs2 header", ErrProtocol)
	case len(authzid) > 0:
		return clientFirst{}, fmt.Errorf("%w: authorization identity", ErrProtocol)
	}
	switch string(flag) {
	case "n", "y", "p=tls-server-end-point":
	default:
		return clientFirst{}, fmt.Errorf("%w: unknown channel binding", ErrProtocol)
	}
	attributes, err := parseAttributes(bare, "nr")
	if err != nil {
		return clientFirst{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	nonce := attributes[1].value
	if !isNonce(nonce) {
		return clientFirst{}, fmt.Errorf("%w: %w", ErrProtocol, errNonce)
	}
	return clientFirst{flag: flag[0], header: message[:len(flag)+2], bare: bare, nonce: nonce}, nil
}

// clientFinal is a client-final-message; its slices are parts of the message.
type clientFinal struct {
	withoutProof []byte
	binding      []byte // the value of c=, in base64
	nonce        []byte
	proof        [32]byte
}

// parseClientFinal reads "c=<binding>,r=<nonce>[,extensions],p=<proof>".
func parseClientFinal(message []byte) (clientFinal, error) {
	if len(message) > maxClientMessage {
		return clientFinal{}, fmt.Errorf("%w: %d bytes", ErrProtocol, len(message))
	}
	end := max(bytes.LastIndexByte(message, ','), 0)
	final := clientFinal{withoutProof: message[:end]}
	proof, found := bytes.CutPrefix(message[end:], []byte(",p="))
	if !found || !decodeKey(&final.proof, proof) {
		return clientFinal{}, fmt.Errorf("%w: no proof of 32 bytes at the end", ErrProtocol)
	}
	attributes, err := parseAttributes(final.withoutProof, "cr")
	if err != nil {
		return clientFinal{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	for _, extension := range attributes[2:] {
		if extension.name == 'p' {
			return clientFinal{}, fmt.Errorf("%w: two proofs", ErrProtocol)
		}
	}
	final.binding, final.nonce = attributes[0].value, attributes[1].value
	return final, nil
}

// serverFirst is a server-first-message; the nonce is part of the message.
type serverFirst struct {
	nonce, salt []byte
	iterations  int
}

// parseServerFirst reads "r=<nonce>,s=<salt>,i=<iterations>[,extensions]".
func parseServerFirst(message []byte) (serverFirst, error) {
	if len(message) > maxServerMessage {
		return serverFirst{}, fmt.Errorf("%w: %d bytes", ErrServerMessage, len(message))
	}
	attributes, err := parseAttributes(message, "rsi")
	if err != nil {
		return serverFirst{}, fmt.Errorf("%w: %w", ErrServerMessage, err)
	}
	first := serverFirst{nonce: attributes[0].value}
	if !isNonce(first.nonce) {
		return serverFirst{}, fmt.Errorf("%w: %w", ErrServerMessage, errNonce)
	}
	var ok bool
	if first.salt, ok = decodeBase64(attributes[1].value); !ok {
		return serverFirst{}, fmt.Errorf("%w: salt", ErrServerMessage)
	}
	if first.iterations, ok = parseIterations(attributes[2].value); !ok {
		return serverFirst{}, fmt.Errorf("%w: iteration count", ErrServerMessage)
	}
	return first, nil
}

// parseServerFinal reads "v=<signature>[,extensions]". The error is ErrServerRefused for "e=<reason>[,extensions]".
func parseServerFinal(message []byte) (signature [32]byte, err error) {
	if len(message) > maxServerMessage {
		return signature, fmt.Errorf("%w: %d bytes", ErrServerMessage, len(message))
	}
	if attributes, err := parseAttributes(message, "e"); err == nil {
		return signature, fmt.Errorf("%w: %.60q", ErrServerRefused, attributes[0].value)
	}
	attributes, err := parseAttributes(message, "v")
	if err != nil {
		return signature, fmt.Errorf("%w: %w", ErrServerMessage, err)
	}
	if !decodeKey(&signature, attributes[0].value) {
		return signature, fmt.Errorf("%w: signature", ErrServerMessage)
	}
	return signature, nil
}

var (
	comma = []byte{','}

	errAttribute = errors.New("attribute missing or misplaced")
	errExtension = errors.New("mandatory extension")
	errNonce     = errors.New("nonce is empty or not printable")
)

type attribute struct {
	name  byte
	value []byte
}

// parseAttributes reads a list of attributes "a=value,b=value", of which the first have the names given, in that order. The
// rest are extensions, which may be ignored, except for "m": RFC 5802 section 5.1 demands failure wherever it appears.
func parseAttributes(message []byte, names string) ([]attribute, error) {
	attributes := make([]attribute, 0, len(names))
	for field := range bytes.SplitSeq(message, comma) {
		if len(field) < 2 || !isLetter(field[0]) || field[1] != '=' || bytes.IndexByte(field, 0) >= 0 {
			return nil, errAttribute
		}
		if field[0] == 'm' {
			return nil, errExtension
		}
		if i := len(attributes); i < len(names) && field[0] != names[i] {
			return nil, errAttribute
		}
		attributes = append(attributes, attribute{field[0], field[2:]})
	}
	if len(attributes) < len(names) {
		return nil, errAttribute
	}
	return attributes, nil
}

func isLetter(b byte) bool { return 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z' }

// isNonce reports whether text is "printable" of RFC 5802 section 7. There is no comma in an attribute.
func isNonce(text []byte) bool {
	for _, b := range text {
		if b < 0x21 || b > 0x7e {
			return false
		}
	}
	return len(text) > 0
}

// parseIterations reads a "posit-number" of RFC 5802 section 7 that fits PostgreSQL's int.
func parseIterations(text []byte) (int, bool) {
	n, err := strconv.ParseUint(string(text), 10, 31)
	return int(n), err == nil && n >= 1 && text[0] != '0'
}

// decodeBase64 reads base64 of at least one byte in its one canonical form. The decoder itself would skip line breaks.
func decodeBase64(text []byte) ([]byte, bool) {
	raw, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	return raw, err == nil && len(raw) > 0 && base64.StdEncoding.EncodedLen(len(raw)) == len(text)
}

// decodeKey reads base64 of exactly 32 bytes into key.
func decodeKey(key *[32]byte, text []byte) bool {
	raw, ok := decodeBase64(text)
	defer clear(raw)
	return ok && copy(key[:], raw) == len(raw) && len(raw) == len(key)
}

// encodeBinding returns the value of c=: the gs2 header, and the channel binding where the header says that there is one.
func encodeBinding(header, binding []byte) []byte {
	input := append([]byte(nil), header...)
	if header[0] == 'p' {
		input = append(input, binding...)
	}
	return base64.StdEncoding.AppendEncode(nil, input)
}

// authMessage is what both proofs are made over (RFC 5802 section 3).
func authMessage(clientFirstBare, serverFirst, clientFinalWithoutProof []byte) []byte {
	return bytes.Join([][]byte{clientFirstBare, serverFirst, clientFinalWithoutProof}, comma)
}
