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

// paced is a connection that gives one of its parts at each read, and then ends. It keeps what is written, write by write.
type paced struct {
	net.Conn // for deadlines
	parts    []string
	told     []string
}

func newPaced(t *testing.T, parts ...string) *paced {
	conn, other := net.Pipe()
	t.Cleanup(func() { _, _ = conn.Close(), other.Close() })
	return &paced{Conn: conn, parts: parts}
}

func (p *paced) Read(b []byte) (int, error) {
	if len(p.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.parts[0])
	if p.parts[0] = p.parts[0][n:]; p.parts[0] == "" {
		p.parts = p.parts[1:]
	}
	return n, nil
}

func (p *paced) Write(b []byte) (int, error) {
	p.told = append(p.told, string(b))
	return len(b), nil
}

// What a server says at once the client hears at once, in one TLS record, and what a server has said the client hears before
// the server says more.
func TestPassedOnAsSaid(t *testing.T) {
	const (
		sasl      = "R\x00\x00\x00\x17\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00"
		challenge = "R\x00\x00\x00\x0a\x00\x00\x00\x0br="
		final     = "R\x00\x00\x00\x0a\x00\x00\x00\x0cv="
		ok        = "R\x00\x00\x00\x08\x00\x00\x00\x00"
		parameter = "S\x00\x00\x00\x08a\x00b\x00"
		ready     = "Z\x00\x00\x00\x05I"
		notice    = "N\x00\x00\x00\x05\x00"
		refused   = "E\x00\x00\x00\x0eC3D000\x00M\x00\x00"
		behind    = "A"
	)
	many := strings.Repeat(notice, 3*readAhead/len(notice))
	for name, test := range map[string]struct {
		server, want []string
		rest         string
	}{
		"at once":               {[]string{sasl, challenge, final + ok + parameter + ready + behind}, []string{sasl, challenge, final + ok + parameter + ready}, behind},
		"one by one":            {[]string{sasl, challenge, final, ok, parameter, ready}, []string{sasl, challenge, final, ok, parameter, ready}, ""},
		"pause in a message":    {[]string{sasl, challenge, final + ok + parameter[:4], parameter[4:] + ready}, []string{sasl, challenge, final + ok, parameter + ready}, ""},
		"torn":                  {[]string{sasl, challenge, final + ok[:7], ok[7:] + ready}, []string{sasl, challenge, final + ok + ready}, ""},
		"notice with a request": {[]string{notice + sasl, challenge, final + ok, ready}, []string{notice + sasl, challenge, final + ok, ready}, ""},
		"refused in the middle": {[]string{sasl, challenge, final + refused}, []string{sasl, challenge, final + refused}, ""},
		"refused at the end":    {[]string{sasl, challenge, final + ok + refused}, []string{sasl, challenge, final + ok + refused}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			up, down := newPaced(t, "p\x00\x00\x00\x19SCRAM-SHA-256\x00\x00\x00\x00\x03n,,", "p\x00\x00\x00\x05x"), newPaced(t, test.server...)
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
		up, down := newPaced(t), newPaced(t, many[:100], many[100:], refused)
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

// play brings it to the server's first ReadyForQuery, and returns what the server has said behind it.
func (a *authentication) play() ([]byte, error) {
	first, err := a.down.reader.Next(wire.MaxLogin)
	if err != nil {
		return nil, err
	}
	if err := a.run(first); err != nil {
		return nil, err
	}
	rest, err := a.session.settle(a.down, a.kept, a.session.write)
	return bytes.Clone(rest), err
}
