package wire

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// SQLSTATEs that the proxy sends (appendix "PostgreSQL Error Codes").
const (
	FeatureNotSupported               = "0A000"
	ProtocolViolation                 = "08P01"
	InvalidAuthorizationSpecification = "28000"
	InvalidPassword                   = "28P01"
	InvalidCatalogName                = "3D000"
	InvalidParameterValue             = "22023"
	TooManyConnections                = "53300"
	AdminShutdown                     = "57P01"
	CrashShutdown                     = "57P02"
	CannotConnectNow                  = "57P03"
	InternalError                     = "XX000"
)

// ErrorResponse is an error that the proxy itself sends to a client. It always ends the session, so its severity is
// always FATAL.
type ErrorResponse struct {
	// Code is the SQLSTATE.
	Code string
	// Message says what happened; Detail and Hint may be empty.
	Message, Detail, Hint string
}

// Error returns the message with its SQLSTATE, for logs.
func (e *ErrorResponse) Error() string { return fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code) }

// AppendBinary appends the message to b.
func (e *ErrorResponse) AppendBinary(b []byte) ([]byte, error) {
	m := pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL",
		Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint,
	}
	return m.Encode(b)
}

// AppendLegacy appends the error in the form that protocols before 3 had: the type byte, the text and a zero byte, with
// no length. Clients of those protocols read nothing else; libpq knows this form too.
func (e *ErrorResponse) AppendLegacy(b []byte) []byte {
	b = append(b, TypeErrorResponse)
	b = append(b, "FATAL:  "...)
	b = append(b, e.Message...)
	return append(b, '\n', 0)
}
