package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// authentication passes the messages of a login both ways, one at a time, until AuthenticationOk. The client is read only
// when the server asked it for something the cluster allows, so no byte of a password can go where it should not.
type authentication struct {
	session *session
	up      *wire.Reader // the client
	down    serverLeg

	// challenged is true once the server asked for proof; without, AuthenticationOk means that it trusts the proxy's
	// address.
	challenged bool
	// scram is true once the client chose a SCRAM mechanism, and proven once the server sent its final message.
	scram, proven bool
	// kept is for the client, and goes with what else the server has said already.
	kept []byte
}

// tell passes on a message that the client need not answer: at once, or with the next one if that has arrived too.
func (a *authentication) tell(m wire.Message) error {
	a.kept = m.Append(a.kept)
	if !a.down.pauses() && len(a.kept) < readAhead {
		return nil
	}
	return a.flush()
}

// tellNow passes on a message that the client has to answer, or that is the last one.
func (a *authentication) tellNow(m wire.Message) error {
	a.kept = m.Append(a.kept)
	return a.flush()
}

// flush sends what was kept.
func (a *authentication) flush() error {
	if len(a.kept) == 0 {
		return nil
	}
	err := a.session.write(a.kept)
	a.kept = a.kept[:0]
	return err
}

// run starts with the server's first message.
func (a *authentication) run(m wire.Message) error {
	for {
		done, err := a.step(m)
		if done || err != nil {
			return err
		}
		if m, err = a.down.reader.Next(wire.MaxLogin); err != nil {
			return lost("read from", a.session.target.Name, err)
		}
	}
}

// step handles one message of the server.
func (a *authentication) step(m wire.Message) (done bool, err error) {
	switch m.Type {
	case wire.TypeAuthentication:
		return a.request(m)
	case wire.TypeErrorResponse:
		state, _ := m.SQLState()
		a.session.guessed(state)
		if err := a.tellNow(m); err != nil {
			return false, err
		}
		return false, &serverError{sqlState: state}
	case wire.TypeNegotiateProtocolVersion, wire.TypeNoticeResponse, wire.TypeParameterStatus:
		return false, a.tell(m)
	default:
		return false, fmt.Errorf("server %s sent message %q during authentication", a.session.target.Name, m.Type)
	}
}

// errServerLost is a server whose connection ended in the middle of a login.
var errServerLost = errors.New("connection to the server lost")

// lost wraps an error of the server's connection; one of its messages stays what it is.
func lost(doing, server string, err error) error {
	err = fmt.Errorf("%s server %s during authentication: %w", doing, server, err)
	if errors.Is(err, wire.ErrLength) {
		return err
	}
	return errors.Join(errLost(server), errServerLost, err)
}

// demand returns the next Authentication message of a server that is logged in to by the proxy itself, from m on. What the
// server says in between goes to the client; its refusal does and ends the session.
func (a *authentication) demand(m wire.Message) (wire.AuthCode, []byte, error) {
	for m.Type != wire.TypeAuthentication {
		if _, err := a.step(m); err != nil {
			return 0, nil, err
		}
		var err error
		if m, err = a.down.reader.Next(wire.MaxLogin); err != nil {
			return 0, nil, lost("read from", a.session.target.Name, err)
		}
	}
	if err := a.flush(); err != nil {
		return 0, nil, err
	}
	return m.Authentication()
}

// request handles one Authentication message.
func (a *authentication) request(m wire.Message) (done bool, err error) {
	code, data, err := m.Authentication()
	if err != nil {
		return false, err
	}
	switch code {
	case wire.AuthOK:
		if err := a.accepted(); err != nil {
			return false, err
		}
		if err := a.session.enter(); err != nil {
			return false, err
		}
		return true, a.tell(m)
	case wire.AuthSASL:
		return false, a.sasl(data)
	case wire.AuthSASLFinal:
		a.proven = true
		return false, a.tell(m)
	case wire.AuthSASLContinue:
		if !a.challenged {
			return false, errors.New("server continued a SASL exchange that it had not begun")
		}
		return false, a.exchange(m)
	case wire.AuthGSSContinue:
		if err := a.allow(code); err != nil {
			return false, err
		}
		if !a.challenged {
			return false, errors.New("server continued a GSSAPI exchange that it had not begun")
		}
		return a.gssContinue(m)
	default:
		if err := a.allow(code); err != nil {
			return false, err
		}
		return false, a.exchange(m)
	}
}

// allow refuses a method that the cluster does not allow, or not over this leg.
func (a *authentication) allow(code wire.AuthCode) error {
	switch code {
	case wire.AuthMD5:
		return a.allowMethod(MethodMD5)
	case wire.AuthCleartext:
		return a.allowMethod(MethodPassword)
	case wire.AuthGSS, wire.AuthSSPI, wire.AuthGSSContinue:
		return a.allowMethod(MethodGSS)
	default:
		return fmt.Errorf("server asked for unknown authentication method %d", code)
	}
}

// readable are the methods whose secret whoever reads the server leg could use.
const readable = MethodPassword | MethodOAuth

func (a *authentication) allowMethod(method Methods) error {
	s := a.session
	if !s.cluster.Allow.Has(method) {
		return errMethod(s.target.Name, s.cluster.Monitor.Cluster, method.String())
	}
	if readable.Has(method) && !s.target.Secure() {
		return errInsecure(s.target.Name, method.String())
	}
	return nil
}

// accepted checks that the server's AuthenticationOk came after what must come before it.
func (a *authentication) accepted() error {
	s := a.session
	switch {
	case !a.challenged && !s.cluster.Allow.Has(MethodTrust):
		return errTrusted(s.target.Name, s.cluster.Monitor.Cluster, s.request.User)
	case a.scram && !a.proven:
		return errors.New("server accepted a SCRAM login without proving that it knows the secret")
	}
	return nil
}

// exchange passes a request on and the client's one answer back.
func (a *authentication) exchange(m wire.Message) error {
	a.challenged = true
	if err := a.tellNow(m); err != nil {
		return err
	}
	answer, err := a.answer()
	if err != nil {
		return err
	}
	return a.forward(answer)
}

// answer reads the client's one message.
func (a *authentication) answer() (wire.Message, error) {
	m, err := a.up.Next(wire.MaxPassword)
	if errors.Is(err, wire.ErrLength) {
		return wire.Message{}, errors.Join(errNoAnswer, err)
	}
	if err != nil {
		return wire.Message{}, clientError(err)
	}
	if m.Type != wire.TypePassword {
		return wire.Message{}, errNoAnswer
	}
	return m, a.session.fresh()
}

func (a *authentication) forward(m wire.Message) error {
	if _, err := a.down.conn.Write(m.Append(nil)); err != nil {
		return lost("write to", a.session.target.Name, err)
	}
	return nil
}

// sasl passes the list of mechanisms on and the client's choice back, unless the choice cannot work or is not allowed.
func (a *authentication) sasl(data []byte) error {
	mechanisms, err := wire.ParseMechanisms(data)
	if err != nil {
		return err
	}
	if mechanisms, err = a.offer(mechanisms); err != nil {
		return err
	}
	a.challenged = true
	a.kept = wire.AppendMechanisms(a.kept, mechanisms)
	if err := a.flush(); err != nil {
		return err
	}
	answer, err := a.answer()
	if err != nil {
		return err
	}
	choice, err := wire.ParseSASLInitialResponse(answer.Body)
	if err != nil {
		return errors.Join(errNoAnswer, err)
	}
	if !slices.Contains(mechanisms, choice.Mechanism) {
		return errors.Join(errNoAnswer, fmt.Errorf("client chose SASL mechanism %q, which was not offered", choice.Mechanism))
	}
	a.scram = wire.IsSCRAM(choice.Mechanism)
	if a.scram && a.bindingBroken(choice) {
		return errChannelBinding(a.session.target.Name)
	}
	return a.forward(answer)
}

// offer returns the mechanisms that the client may hear of: those of the server, every one of which must be allowed. To a
// client without TLS channel binding is not offered, for it could only fail (libpq ends the login when it is); a client
// with TLS hears the list as it is, because leaving channel binding out would make it suspect an attack, rightly.
func (a *authentication) offer(mechanisms []string) ([]string, error) {
	offered := make([]string, 0, len(mechanisms))
	for _, name := range mechanisms {
		switch {
		case name == wire.MechanismSCRAMPlus && a.session.client.Leaf == nil:
			continue
		case wire.IsSCRAM(name):
			if err := a.allowMethod(MethodSCRAM); err != nil {
				return nil, err
			}
		case name == wire.MechanismOAuth:
			if err := a.allowMethod(MethodOAuth); err != nil {
				return nil, err
			}
		default:
			return nil, errMethod(a.session.target.Name, a.session.cluster.Monitor.Cluster, fmt.Sprintf("SASL mechanism %q", name))
		}
		offered = append(offered, name)
	}
	if len(offered) == 0 {
		return nil, errors.New("server offers no SASL mechanism that works without TLS")
	}
	return offered, nil
}

// bindingBroken reports whether channel binding would make the server refuse this login: its leg is TLS, the client's is not or
// has another certificate, and the client either binds (PLUS) or says that it would have (gs2 flag y: RFC 5802 section 6).
func (a *authentication) bindingBroken(choice wire.SASLInitialResponse) bool {
	front, back := a.session.client.Leaf, a.down.conn.Leaf
	if back == nil || front != nil && bytes.Equal(front.Raw, back.Raw) {
		return false
	}
	return choice.Mechanism == wire.MechanismSCRAMPlus || bytes.HasPrefix(choice.Data, []byte("y"))
}

// gssContinue passes a GSSAPI token on. Whether the client has one more to send only its own library knows: so whichever
// of the two speaks next is heard.
func (a *authentication) gssContinue(m wire.Message) (done bool, err error) {
	if err := a.tellNow(m); err != nil {
		return false, err
	}
	type read struct {
		m   wire.Message
		err error
	}
	client := make(chan read, 1)
	go func() {
		m, err := a.answer()
		client <- read{m, err}
	}()
	server := make(chan read, 1)
	go func() {
		m, err := a.down.reader.Next(wire.MaxLogin)
		server <- read{m, err}
	}()
	select {
	case r := <-client:
		if r.err == nil {
			r.err = a.forward(r.m)
		}
		if r.err != nil {
			_ = a.down.conn.SetReadDeadline(time.Unix(1, 0))
			<-server
			return false, r.err
		}
		next := <-server
		if next.err != nil {
			return false, next.err
		}
		return a.step(next.m)
	case r := <-server:
		// The client's read is taken back; the part of a message it may have read stays in up.
		_ = a.session.client.Conn.SetReadDeadline(time.Unix(1, 0))
		late := <-client
		if late.err == nil { // it had one after all
			late.err = a.forward(late.m)
		} else if errors.Is(late.err, os.ErrDeadlineExceeded) {
			late.err = a.session.client.Conn.SetReadDeadline(a.session.client.Deadline)
		}
		if err := errors.Join(r.err, late.err); err != nil {
			return false, err
		}
		return a.step(r.m)
	}
}
