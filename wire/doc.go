// Package wire reads and writes the part of PostgreSQL's frontend/backend protocol that a proxy must understand, and
// leaves the rest alone.
//
// It knows the packets that open a connection (opening.go, startup.go, cancel.go), the framing of everything after them
// (frame.go, walker.go), and the few messages a proxy looks into or originates (message.go, errorresponse.go). Bytes are
// read exactly: no function consumes one byte more than it returns, because what follows an SSLRequest must reach the TLS
// handshake and nothing else (CVE-2021-23214). Lengths are checked on the header alone, before anything is allocated.
//
// It has no connections, goroutines, deadlines or logs, and decides nothing: refusals are the caller's. pgproto3 encodes
// the messages the proxy makes itself; its readers are not used, for they read ahead and allocate what a header claims.
//
// The protocol is chapter "Frontend/Backend Protocol" of the PostgreSQL manual (protocol.sgml); limits name the server's
// source file they were taken from. Read opening.go first, then package tlsfront for its use.
package wire
