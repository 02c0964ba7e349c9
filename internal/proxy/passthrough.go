package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/scram"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Passthrough is what the mode scram_passthrough needs: the proxy ends SCRAM with the client by the role's stored secret,
// recovers the ClientKey from the client's proof (RFC 5802 section 3), and logs in to the server with it. Each leg is then
// bound to its own certificate, and no server hears of a client that has not proven who it is.
type Passthrough struct {
	// Lookup returns the secret of a role as the server has it on file, at most maxAge old; zero asks the server. Nil asks
	// the servers, with the monitor's credentials.
	Lookup func(ctx context.Context, backend, role string, maxAge time.Duration) (backends.RoleSecret, error)
	// Superusers lets superusers in whose secret is asked for like that.
	Superusers bool
	// MockKey makes the answers for roles without a secret: the same for one role across restarts, and on every proxy that
	// has the same key. It has 32 bytes at least.
	MockKey []byte
}

// Format keeps the key out of every fmt verb.
func (p *Passthrough) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "scram_passthrough") }

// LogValue keeps the key out of logs.
func (p *Passthrough) LogValue() slog.Value { return slog.StringValue("scram_passthrough") }

// secretAge is how long a secret may be used without asking again. A password that was changed meanwhile is noticed at the
// first login with the new one, which is told to retry.
const secretAge = 30 * time.Second

// passthrough is one login in that mode.
type passthrough struct {
	*session
	backend string // whose secret is used
	secret  scram.Secret
	server  *scram.Server // towards the client
	key     *scram.Key
	// greeting is what the server has said from its AuthenticationOk to its ReadyForQuery, rest what came behind.
	greeting, rest []byte
}

// loginPassthrough takes the session from its decision to the server's first ReadyForQuery.
func (s *session) loginPassthrough(ctx context.Context) (pending, error) {
	p := passthrough{session: s}
	for tried := 1; ; tried++ {
		err := p.prepare(ctx)
		if err == nil {
			break
		}
		if err := s.again(ctx, tried, err); err != nil {
			return pending{}, err
		}
	}
	defer p.server.Wipe()
	defer func() { p.key.Wipe() }()
	if err := p.negotiate(); err != nil {
		return pending{}, err
	}
	if err := p.authenticateClient(ctx); err != nil {
		return pending{}, err
	}
	if err := p.enter(); err != nil {
		return pending{}, err
	}
	if err := p.keepCandidates(ctx); err != nil {
		return pending{}, err
	}
	if _, _, err := s.connect(ctx, p.keepFitting, p.enterServer); err != nil {
		return pending{}, err
	}
	if err := p.accept(); err != nil {
		return pending{}, err
	}
	return pending{fromServer: p.rest}, s.setDeadline(time.Time{})
}

// enterServer logs in to a server and waits until it is ready. Nothing of that has reached the client, so a server which ends
// meanwhile, or turns out to have another role, can be left for the next one.
func (p *passthrough) enterServer(ctx context.Context, leg serverLeg, first wire.Message) error {
	if err := p.authenticateProxy(ctx, leg, first); err != nil {
		return err
	}
	p.greeting = p.greeting[:0]
	var err error
	p.rest, err = p.settle(leg, nil, p.keep)
	var told *serverError
	switch {
	case errors.As(err, &told) && leaving(told.sqlState):
		return fmt.Errorf("%w: %v", errServerLost, err) // nobody has passed that on
	case reasonOf(err) == ReasonRole:
		return errors.Join(err, errServerLost)
	case told != nil: // the client hears it where it expects it
		return errors.Join(p.accept(), err)
	default:
		return err
	}
}

// keep keeps what the server says until it is ready.
func (p *passthrough) keep(said []byte) error {
	if p.greeting = append(p.greeting, said...); len(p.greeting) > wire.MaxReady {
		return fmt.Errorf("server %s said more than %d bytes before it was ready", p.target.Name, wire.MaxReady)
	}
	return nil
}

// leaving reports whether an error of a server means that it ends, or takes nobody now.
func leaving(sqlState string) bool {
	return sqlState == wire.AdminShutdown || sqlState == wire.CrashShutdown || sqlState == wire.CannotConnectNow
}

// prepare gets the secret as the first candidate has it that can be asked.
func (p *passthrough) prepare(ctx context.Context) error {
	var failures error
	for _, name := range p.decision.Backends {
		found, err := p.lookup(ctx, name, secretAge)
		if err != nil {
			failures = errors.Join(failures, err)
			continue
		}
		p.backend = name
		doomed := found.Secret == nil
		if doomed {
			p.secret = scram.MockSecret(p.cluster.Passthrough.MockKey, p.request.User, found.Iterations)
		} else {
			p.secret = *found.Secret
		}
		p.server = scram.NewServer(p.secret, doomed, binding(p.client.Leaf))
		return nil
	}
	return errors.Join(errNoSecret(p.decision.Cluster), failures)
}

// lookup asks for the secret of the session's role, while the login has time.
func (p *passthrough) lookup(ctx context.Context, backend string, maxAge time.Duration) (backends.RoleSecret, error) {
	ctx, cancel := context.WithDeadline(ctx, p.client.Deadline)
	defer cancel()
	return p.cluster.lookup(ctx, backend, p.request.User, maxAge)
}

// binding is the channel binding data of a certificate, nil where there is none or it has none.
func binding(leaf *x509.Certificate) []byte {
	if leaf == nil {
		return nil
	}
	hash, _ := scram.EndPoint(leaf)
	return hash
}

// negotiate settles the protocol version in the server's place, because the client must hear of it before it is asked to
// authenticate. Options of the protocol ("_pq_.") are declined.
func (p *passthrough) negotiate() error {
	startup := p.client.Opening.Startup
	settled, declined := startup.Negotiate(p.newestVersion())
	if settled.Version == startup.Version && len(declined) == 0 {
		return nil
	}
	p.client.Opening.Startup = settled
	return p.write(wire.AppendNegotiateProtocolVersion(nil, settled.Version, declined))
}

// newestVersion is the newest protocol that every candidate speaks: 3.2 came with PostgreSQL 18.
func (p *passthrough) newestVersion() wire.Version {
	snapshot := p.cluster.known()
	for _, name := range p.decision.Backends {
		if st, ok := snapshot.State(name); !ok || st.MajorVersion() < 18 {
			return wire.Version30
		}
	}
	return wire.Version32
}

// authenticateClient is the server's side of SCRAM, towards the client.
func (p *passthrough) authenticateClient(ctx context.Context) error {
	mechanisms := p.server.Mechanisms()
	if err := p.write(wire.AppendMechanisms(nil, mechanisms)); err != nil {
		return err
	}
	body, err := p.response()
	if err != nil {
		return err
	}
	choice, err := wire.ParseSASLInitialResponse(body)
	if err != nil {
		return errors.Join(errNoAnswer, err)
	}
	challenge, err := p.server.First(choice.Mechanism, choice.Data)
	if err == nil && len(challenge) == 0 { // the client waits for us to begin
		if body, err = p.ask(challenge); err == nil {
			challenge, err = p.server.First(choice.Mechanism, body)
		}
	}
	if err != nil {
		return clientScramError(err, p.request.User)
	}
	if body, err = p.ask(challenge); err != nil {
		return err
	}
	if err := p.fresh(); err != nil {
		return err
	}
	p.key, err = p.server.Final(body)
	if errors.Is(err, scram.ErrProof) && p.outdated(ctx) {
		return errors.Join(errSecretChanged, err)
	}
	return clientScramError(err, p.request.User)
}

// outdated reports whether the proof failed against a secret that the server has no more: the client may well have had the
// new password.
func (p *passthrough) outdated(ctx context.Context) bool {
	now, err := p.lookup(ctx, p.backend, 0)
	if err != nil || now.Secret == nil || now.Secret.Equal(p.secret) {
		return false
	}
	p.renew(ctx)
	return true
}

// renew asks every candidate again, since one was seen to have another secret: a retry must not meet the old one elsewhere.
func (p *passthrough) renew(ctx context.Context) {
	for _, name := range p.decision.Backends {
		_, _ = p.lookup(ctx, name, 0) // where it fails, a login will find out
	}
}

// ask sends a challenge and returns the response to it.
func (p *passthrough) ask(challenge []byte) ([]byte, error) {
	if err := p.write(wire.AppendAuthentication(nil, wire.AuthSASLContinue, challenge)); err != nil {
		return nil, err
	}
	return p.response()
}

func (p *passthrough) response() ([]byte, error) {
	m, err := p.up.Next(wire.MaxSCRAM)
	switch {
	case errors.Is(err, wire.ErrLength):
		return nil, errors.Join(errNoAnswer, err)
	case err != nil:
		return nil, clientError(err)
	case m.Type != wire.TypePassword:
		return nil, errNoAnswer
	}
	return m.Body, nil
}

// keepFitting is keepCandidates for candidates of a new decision: they also have to speak the protocol that the client was told.
func (p *passthrough) keepFitting(ctx context.Context) error {
	if p.client.Opening.Startup.Version > p.newestVersion() {
		return errUnreachable(p.decision)
	}
	return p.keepCandidates(ctx)
}

// keepCandidates leaves only servers that have the very secret which the client has proven: while a change of it is on its
// way to the standbys they differ.
func (p *passthrough) keepCandidates(ctx context.Context) error {
	var kept []string
	var failures []error
	for _, name := range p.decision.Backends {
		found, err := p.lookup(ctx, name, secretAge)
		if err != nil {
			failures = append(failures, err)
		} else if found.Secret != nil && found.Secret.Equal(p.secret) {
			kept = append(kept, name)
		}
	}
	switch {
	case len(kept) > 0:
		p.decision.Backends = kept
		return nil
	case len(failures) == len(p.decision.Backends):
		return errors.Join(errNoSecret(p.decision.Cluster), errors.Join(failures...))
	default:
		return errSecretChanged
	}
}

// authenticateProxy is the client's side of SCRAM, towards the server, with the recovered key. A server that asks for
// nothing is content with less than the client has proven to us.
func (p *passthrough) authenticateProxy(ctx context.Context, leg serverLeg, m wire.Message) (err error) {
	a := authentication{session: p.session, down: leg}
	var client *scram.Client
	defer func() {
		if client != nil {
			client.Wipe()
		}
	}()
	for {
		code, data, err := a.demand(m)
		if err != nil {
			return err
		}
		switch {
		case code == wire.AuthOK && (client == nil || a.proven):
			return nil
		case code == wire.AuthSASL && client == nil:
			client, err = p.begin(a, data)
		case code == wire.AuthSASLContinue && client != nil:
			err = p.prove(ctx, a, client, data)
		case code == wire.AuthSASLFinal && client != nil:
			err = client.Verify(data)
			a.proven = err == nil
		case code == wire.AuthMD5 || code == wire.AuthCleartext || code == wire.AuthGSS || code == wire.AuthSSPI:
			return errNotSCRAM(p.target.Name)
		default:
			return fmt.Errorf("server %s sent authentication code %d out of order", p.target.Name, code)
		}
		if err != nil {
			return fmt.Errorf("log in to %s: %w", p.target.Name, err)
		}
		if m, err = leg.reader.Next(wire.MaxLogin); err != nil {
			return lost("read from", p.target.Name, err)
		}
	}
}

// begin answers the server's list of mechanisms. On a TLS leg the login is bound to the certificate the server showed.
func (p *passthrough) begin(a authentication, data []byte) (*scram.Client, error) {
	mechanisms, err := wire.ParseMechanisms(data)
	if err != nil {
		return nil, err
	}
	var bound []byte
	plain := false
	for _, name := range mechanisms {
		plain = plain || name == wire.MechanismSCRAM
		if name == wire.MechanismSCRAMPlus {
			bound = binding(a.down.conn.Leaf)
		}
	}
	if !plain && bound == nil {
		return nil, errNotSCRAM(p.target.Name)
	}
	if bound == nil && binding(a.down.conn.Leaf) != nil && !p.target.Secure() {
		// Servers offer it on TLS since version 11. Where their name is not verified, nothing else would tell that somebody
		// stands in between and has taken it out.
		return nil, errors.New("server offers no channel binding on a TLS connection that is not verified")
	}
	client := scram.NewClient(p.key, p.secret, bound)
	return client, a.forward(wire.Message{
		Type: wire.TypePassword, Body: wire.AppendSASLInitialResponse(nil, client.Mechanism(), client.First()),
	})
}

// prove answers the server's challenge. A salt or count other than the secret's says that the secret was changed since, or
// that the role has none any more.
func (p *passthrough) prove(ctx context.Context, a authentication, client *scram.Client, data []byte) error {
	final, err := client.Final(data)
	if errors.Is(err, scram.ErrSecretChanged) {
		p.renew(ctx)
		if now, lookupErr := p.lookup(ctx, p.target.Name, secretAge); lookupErr == nil && now.Secret == nil {
			return errors.Join(clientScramError(scram.ErrProof, p.request.User), err)
		}
		return errors.Join(errSecretChanged, err)
	}
	if err != nil {
		return err
	}
	return a.forward(wire.Message{Type: wire.TypePassword, Body: final})
}

// accept tells the client that it is in, with the proof that the proxy has the role's secret, and passes the greeting on.
func (p *passthrough) accept() error {
	b := wire.AppendAuthentication(nil, wire.AuthSASLFinal, p.server.ServerFinal())
	return p.write(append(wire.AppendAuthentication(b, wire.AuthOK, nil), p.greeting...))
}
