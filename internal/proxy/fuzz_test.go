package proxy

import (
	"bytes"
	"net"
	"testing"

	"github.com/replicon/pgreplicaproxy/wire"
)

// tape is a connection that says what is on it and then ends, and keeps what it is told.
type tape struct {
	net.Conn // for the addresses and deadlines that nobody asks for
	said     *bytes.Reader
	told     bytes.Buffer
}

func newTape(said []byte) *tape {
	conn, peer := net.Pipe()
	_ = peer.Close()
	return &tape{Conn: conn, said: bytes.NewReader(said)}
}

func (t *tape) Read(p []byte) (int, error)  { return t.said.Read(p) }
func (t *tape) Write(p []byte) (int, error) { return t.told.Write(p) }

// FuzzLogin plays a login in which neither side can be trusted: whatever they say it comes to an end, no client hears
// AuthenticationOk from a server that asked it nothing, and no byte of a client reaches a server that did not ask.
func FuzzLogin(f *testing.F) {
	const (
		ok       = "R\x00\x00\x00\x08\x00\x00\x00\x00"
		sasl     = "R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"
		more     = "R\x00\x00\x00\x0a\x00\x00\x00\x0br="
		final    = "R\x00\x00\x00\x0a\x00\x00\x00\x0cv="
		gss      = "R\x00\x00\x00\x08\x00\x00\x00\x07"
		initial  = "p\x00\x00\x00\x19SCRAM-SHA-256\x00\x00\x00\x00\x03n,,"
		password = "p\x00\x00\x00\x05x"
		refused  = "E\x00\x00\x00\x0eC28P01\x00M\x00\x00"
	)
	for _, seed := range [][2]string{
		{"", ""},
		{"", ok},
		{initial + password, sasl + more + final + ok},
		{initial + password, sasl + more + ok},
		{initial, sasl + refused},
		{password, "R\x00\x00\x00\x08\x00\x00\x00\x03" + ok},
		{password, "R\x00\x00\x00\x0c\x00\x00\x00\x05abcd" + ok},
		{password + password, gss + "R\x00\x00\x00\x08\x00\x00\x00\x08" + ok},
		{"p\xff\xff\xff\xff", sasl},
		{"X\x00\x00\x00\x04", sasl},
		{initial, "N\x00\x00\x00\x05\x00v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00" + sasl},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]), false)
		f.Add([]byte(seed[0]), []byte(seed[1]), true)
	}
	f.Fuzz(func(t *testing.T, client, server []byte, lenient bool) {
		allow := MethodSCRAM
		if lenient {
			allow |= MethodMD5 | MethodGSS
		}
		up, down := newTape(client), newTape(server)
		a := playedLogin(up, down, allow)
		first, err := a.down.reader.Next(wire.MaxLogin)
		if err == nil {
			err = a.run(first)
		}
		if down.told.Len() > 0 && !a.challenged {
			t.Errorf("%q reached a server that had asked for nothing", down.told.Bytes())
		}
		told := append(up.told.Bytes(), a.kept...) // which goes with what comes next
		in := bytes.Contains(told, []byte("R\x00\x00\x00\x08\x00\x00\x00\x00"))
		if in && !a.challenged || in && a.scram && !a.proven {
			t.Errorf("the client heard AuthenticationOk too early: %q", told)
		}
		if err == nil && !in {
			t.Error("the login is over, and the client has not heard of it")
		}
	})
}
