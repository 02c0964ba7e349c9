package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Types of the messages a proxy looks into ("Message Formats").
const (
	TypeAuthentication           = 'R'
	TypeBackendKeyData           = 'K'
	TypeErrorResponse            = 'E'
	TypeNegotiateProtocolVersion = 'v'
	TypeNoticeResponse           = 'N'
	TypeParameterStatus          = 'S'
	TypeReadyForQuery            = 'Z'
	// TypePassword is every client message of an authentication: PasswordMessage, SASLInitialResponse, SASLResponse and
	// GSSResponse.
	TypePassword = 'p'
)

// AuthCode is the code of an Authentication message (src/include/libpq/protocol.h).
type AuthCode uint32

// The codes a server may send today. The rest (1, 2, 4, 6) are of methods long removed.
const (
	AuthOK           AuthCode = 0
	AuthCleartext    AuthCode = 3
	AuthMD5          AuthCode = 5
	AuthGSS          AuthCode = 7
	AuthGSSContinue  AuthCode = 8
	AuthSSPI         AuthCode = 9
	AuthSASL         AuthCode = 10
	AuthSASLContinue AuthCode = 11
	AuthSASLFinal    AuthCode = 12
)

// Authentication reads the body of an Authentication message: its code and what follows it, which must be as long as the
// code has it ("Message Formats"): of a longer message another reader might take the rest for the next one.
func (m Message) Authentication() (AuthCode, []byte, error) {
	if m.Type != TypeAuthentication || len(m.Body) < 4 {
		return 0, nil, fmt.Errorf("%w: authentication message of %d bytes", ErrMalformed, len(m.Body))
	}
	code, data := AuthCode(binary.BigEndian.Uint32(m.Body)), m.Body[4:]
	length := len(data)
	switch code {
	case AuthOK, AuthCleartext, AuthGSS, AuthSSPI:
		length = 0
	case AuthMD5:
		length = 4 // the salt
	}
	if len(data) != length {
		return 0, nil, fmt.Errorf("%w: authentication message of code %d with %d bytes behind it", ErrMalformed, code, len(data))
	}
	return code, data, nil
}

// Names of SASL mechanisms that PostgreSQL knows.
const (
	MechanismSCRAM     = "SCRAM-SHA-256"
	MechanismSCRAMPlus = "SCRAM-SHA-256-PLUS"
	MechanismOAuth     = "OAUTHBEARER"
)

// ParseMechanisms reads the list of an AuthenticationSASL message: names that end in a zero byte, and an empty one that
// ends the list and the message.
func ParseMechanisms(data []byte) ([]string, error) {
	list, ok := bytes.CutSuffix(data, []byte{0, 0})
	if !ok || len(list) == 0 {
		return nil, fmt.Errorf("%w: list of SASL mechanisms", ErrMalformed)
	}
	var names []string
	for name := range bytes.SplitSeq(list, []byte{0}) {
		if len(name) == 0 {
			return nil, fmt.Errorf("%w: empty name in the list of SASL mechanisms", ErrMalformed)
		}
		names = append(names, string(name))
	}
	return names, nil
}

// AppendMechanisms appends an AuthenticationSASL message that offers names to b.
func AppendMechanisms(b []byte, names []string) []byte {
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return AppendAuthentication(b, AuthSASL, append(list, 0))
}

// AppendAuthentication appends an Authentication message to b.
func AppendAuthentication(b []byte, code AuthCode, data []byte) []byte {
	body := binary.BigEndian.AppendUint32(nil, uint32(code))
	return Message{Type: TypeAuthentication, Body: append(body, data...)}.Append(b)
}

// SASLInitialResponse is a client's choice of mechanism and its first data.
type SASLInitialResponse struct {
	Mechanism string
	// Data is nil when the client sent no initial data (length -1). It is part of the message it was read from.
	Data []byte
}

// ParseSASLInitialResponse reads the body of the 'p' message that answers AuthenticationSASL. The length of the data
// must be that of the bytes that are there.
func ParseSASLInitialResponse(body []byte) (SASLInitialResponse, error) {
	name, rest, ok := bytes.Cut(body, []byte{0})
	if !ok || len(rest) < 4 {
		return SASLInitialResponse{}, fmt.Errorf("%w: SASL initial response", ErrMalformed)
	}
	r := SASLInitialResponse{Mechanism: string(name)}
	size, data := int32(binary.BigEndian.Uint32(rest)), rest[4:]
	switch {
	case size == -1 && len(data) == 0:
		return r, nil
	case size < 0 || int(size) != len(data):
		return SASLInitialResponse{}, fmt.Errorf("%w of SASL initial response: %d, %d bytes follow", ErrLength, size, len(data))
	}
	r.Data = data[:len(data):len(data)]
	return r, nil
}

// AppendSASLInitialResponse appends the body of a SASLInitialResponse to b.
func AppendSASLInitialResponse(b []byte, mechanism string, data []byte) []byte {
	b = append(append(b, mechanism...), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// AppendNegotiateProtocolVersion appends to b the message that says which version is spoken, and which options of the
// protocol are not known.
func AppendNegotiateProtocolVersion(b []byte, v Version, options []string) []byte {
	body := binary.BigEndian.AppendUint32(nil, uint32(v))
	body = binary.BigEndian.AppendUint32(body, uint32(len(options)))
	for _, name := range options {
		body = append(append(body, name...), 0)
	}
	return Message{Type: TypeNegotiateProtocolVersion, Body: body}.Append(b)
}

// ParseBackendKeyData reads a BackendKeyData message. The key is a copy.
func ParseBackendKeyData(m Message) (Cancel, error) {
	if m.Type != TypeBackendKeyData {
		return Cancel{}, fmt.Errorf("%w: message %q is no BackendKeyData", ErrMalformed, m.Type)
	}
	if len(m.Body) < 4 {
		return Cancel{}, fmt.Errorf("%w: BackendKeyData of %d bytes", ErrLength, len(m.Body))
	}
	return parseCancel(m.Body)
}

// ParameterStatus reads a ParameterStatus message.
func (m Message) ParameterStatus() (name, value string, ok bool) {
	parts := bytes.Split(m.Body, []byte{0})
	if m.Type != TypeParameterStatus || len(parts) != 3 || len(parts[2]) != 0 {
		return "", "", false
	}
	return string(parts[0]), string(parts[1]), true
}

// ErrNoSQLState is an ErrorResponse without the SQLSTATE that the protocol demands.
var ErrNoSQLState = errors.New("error response without SQLSTATE")

// SQLState returns the SQLSTATE of an ErrorResponse.
func (m Message) SQLState() (string, error) {
	for field := range bytes.SplitSeq(m.Body, []byte{0}) {
		if len(field) == 0 { // the end of the fields
			break
		}
		if len(field) == 6 && field[0] == 'C' {
			return string(field[1:]), nil
		}
	}
	return "", ErrNoSQLState
}

// IsSCRAM reports whether name is one of the SCRAM mechanisms of PostgreSQL.
func IsSCRAM(name string) bool {
	return slices.Contains([]string{MechanismSCRAM, MechanismSCRAMPlus}, name)
}
