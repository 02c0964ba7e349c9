package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Messages of a login, as they stand on the wire.
const (
	sasl      = "R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"
	challenge = "R\x00\x00\x00\x0a\x00\x00\x00\x0br="
	final     = "R\x00\x00\x00\x0a\x00\x00\x00\x0cv="
	accepted  = "R\x00\x00\x00\x08\x00\x00\x00\x00"
	refused   = "E\x00\x00\x00\x0eC28P01\x00M\x00\x00"
	initial   = "p\x00\x00\x00\x19SCRAM-SHA-256\x00\x00\x00\x00\x03n,,"
	password  = "p\x00\x00\x00\x05x"
)

// tape is a connection that gives one of its parts at each read, and then ends. It keeps what it is told, write by write.
type tape struct {
	net.Conn // for deadlines
	parts    []string
	told     []string
}

func newTape(parts ...string) *tape {
	conn, _ := net.Pipe()
	return &tape{Conn: conn, parts: parts}
}

func (t *tape) Read(p []byte) (int, error) {
	if len(t.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, t.parts[0])
	if t.parts[0] = t.parts[0][n:]; t.parts[0] == "" {
		t.parts = t.parts[1:]
	}
	return n, nil
}

func (t *tape) Write(p []byte) (int, error) {
	t.told = append(t.told, string(p))
	return len(p), nil
}

// What a server says at once the client hears at once, in one TLS record, and what a server has said the client hears before
// the server says more.
func TestPassedOnAsSaid(t *testing.T) {
	const (
		parameter = "S\x00\x00\x00\x08a\x00b\x00"
		ready     = "Z\x00\x00\x00\x05I"
		notice    = "N\x00\x00\x00\x05\x00"
		behind    = "A"
	)
	many := strings.Repeat(notice, 3*readAhead/len(notice))
	for name, test := range map[string]struct {
		server, want []string
		rest         string
	}{
		"at once":               {[]string{sasl, challenge, final + accepted + parameter + ready + behind}, []string{sasl, challenge, final + accepted + parameter + ready}, behind},
		"one by one":            {[]string{sasl, challenge, final, accepted, parameter, ready}, []string{sasl, challenge, final, accepted, parameter, ready}, ""},
		"pause in a message":    {[]string{sasl, challenge, final + accepted + parameter[:4], parameter[4:] + ready}, []string{sasl, challenge, final + accepted, parameter + ready}, ""},
		"torn":                  {[]string{sasl, challenge, final + accepted[:7], accepted[7:] + ready}, []string{sasl, challenge, final + accepted + ready}, ""},
		"notice with a request": {[]string{notice + sasl, challenge, final + accepted, ready}, []string{notice + sasl, challenge, final + accepted, ready}, ""},
		"refused in the middle": {[]string{sasl, challenge, final + refused}, []string{sasl, challenge, final + refused}, ""},
		"refused at the end":    {[]string{sasl, challenge, final + accepted + refused}, []string{sasl, challenge, final + accepted + refused}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			up, down := newTape(initial, password), newTape(test.server...)
			fails := strings.Contains(strings.Join(test.server, ""), refused)
			a := playedLogin(up, down, MethodSCRAM)
			rest, err := a.play()
			if refusal := new(serverError); fails != errors.As(err, &refusal) || !fails && err != nil {
				t.Errorf("got %v", err)
			}
			if !slices.Equal(up.told, test.want) || string(rest) != test.rest {
				t.Errorf("told %q, want %q; rest %q", up.told, test.want, rest)
			}
		})
	}
	t.Run("endless", func(t *testing.T) {
		up, down := newTape(), newTape(many[:100], many[100:], refused)
		a := playedLogin(up, down, MethodSCRAM)
		if _, err := a.play(); err == nil {
			t.Error("the refusal is lost")
		}
		if told := strings.Join(up.told, ""); told != many+refused {
			t.Errorf("told %d bytes, want %d", len(told), len(many+refused))
		}
		for _, b := range up.told {
			if len(b) > 2*readAhead {
				t.Errorf("%d bytes were kept", len(b))
			}
		}
	})
}

// playedLogin is a login in relay mode between two ends that are given.
func playedLogin(up, down net.Conn, allow Methods) *authentication {
	leg := &backends.Conn{Conn: down}
	s := &session{
		server:  New(Config{}),
		client:  &tlsfront.Client{Conn: up},
		request: policy.Request{User: "app", Database: "app"},
		cluster: &cluster{ClusterConfig: ClusterConfig{Allow: allow}},
		target:  backends.Target{Name: "db1", Network: "tcp"},
		leg:     leg,
		begun:   true,
	}
	return &authentication{session: s, up: wire.NewReader(up), down: newServerLeg(leg)}
}

// authenticate brings it to the server's AuthenticationOk.
func (a *authentication) authenticate() error {
	first, err := a.down.reader.Next(wire.MaxLogin)
	if err != nil {
		return err
	}
	return a.run(first)
}

// play brings it to the server's first ReadyForQuery, and returns what the server has said behind it.
func (a *authentication) play() ([]byte, error) {
	if err := a.authenticate(); err != nil {
		return nil, err
	}
	rest, err := a.session.settle(a.down, a.kept, a.session.write)
	return bytes.Clone(rest), err
}
