package e2e

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/replicon/pgreplicaproxy/wire"
)

// rawClient is a client without a library: what it sends and reads is the test's.
type rawClient struct {
	net.Conn
	t *testing.T
}

// dialRaw connects to the program. Whatever the client waits for then, it waits patience at most.
func (p *program) dialRaw(t *testing.T) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{Conn: conn, t: t}
}

// dialTLS connects to the program and negotiates TLS, without a look at the certificate.
func (p *program) dialTLS(t *testing.T) *rawClient {
	t.Helper()
	c := p.dialRaw(t)
	c.say(sslRequest)
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil || answer[0] != 'S' {
		t.Fatalf("answer to SSLRequest: %q, %v", answer, err)
	}
	c.secure("postgresql")
	return c
}

// secure makes the TLS handshake, offering these protocols.
func (c *rawClient) secure(protocols ...string) {
	c.t.Helper()
	secure := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	if err := secure.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.Conn = secure
}

// say sends bytes in one piece.
func (c *rawClient) say(pieces ...string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.Join(pieces, "")); err != nil {
		c.t.Fatal(err)
	}
}

// closeWrite ends what the client sends. That the program has closed the connection already is no error.
func (c *rawClient) closeWrite() { _ = c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// rest returns everything that the program sends until it closes the connection, which it must do.
func (c *rawClient) rest() []byte {
	c.t.Helper()
	all, err := io.ReadAll(c)
	if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
		c.t.Fatalf("the program did not close the connection; it sent %q", all)
	}
	return all
}

// refusal returns the error with which the program ends the connection. Nothing may come before it or after.
func (c *rawClient) refusal() *pgconn.PgError {
	c.t.Helper()
	rest := c.rest()
	m, after, ok, err := wire.CutMessage(rest, wire.MaxLogin)
	if err != nil || !ok || m.Type != 'E' || len(after) > 0 {
		c.t.Fatalf("the program sent %q, want one ErrorResponse", rest)
	}
	var response pgproto3.ErrorResponse
	if err := response.Decode(m.Body); err != nil {
		c.t.Fatalf("decode %q: %v", m.Body, err)
	}
	return pgconn.ErrorResponseToPgError(&response)
}

// cutMessages cuts what a server sent into messages, all of which must be whole.
func cutMessages(t *testing.T, b []byte) []wire.Message {
	t.Helper()
	var messages []wire.Message
	for rest := b; len(rest) > 0; {
		m, after, ok, err := wire.CutMessage(rest, 1<<20)
		if err != nil || !ok {
			t.Fatalf("not whole messages: %q", b)
		}
		messages, rest = append(messages, m), after
	}
	return messages
}

// messageTypes lists the types of whole messages.
func messageTypes(t *testing.T, b []byte) string {
	t.Helper()
	var types []byte
	for _, m := range cutMessages(t, b) {
		types = append(types, m.Type)
	}
	return string(types)
}

// Requests of a client.
const (
	sslRequest    = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	gssEncRequest = "\x00\x00\x00\x08\x04\xd2\x16\x30"
)

// Versions of the protocol.
const (
	protocol2 = 2 << 16
	protocol3 = 3 << 16
	protocol4 = 4 << 16
)

// startup is a startup packet with parameters: name, value, name, value.
func startup(version uint32, params ...string) string {
	body := word(version) + strings.Join(append(params, "", ""), "\x00")
	return word(uint32(len(body)+4)) + body
}

// asApp is the startup packet of the application's role.
func asApp(database string) string {
	return startup(protocol3, "user", appUser, "database", database)
}
