package backends

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/wire"
)

// Finding is something about a server's access rules that an operator should mend. The zero value is nothing found.
type Finding uint8

// The findings.
const (
	// FoundTrust is a server that lets somebody in from this address without asking for anything (trust, or ident, in
	// pg_hba.conf): behind a proxy that is everybody who reaches the proxy.
	FoundTrust Finding = iota + 1
	// FoundNoSecrets is a server that does not tell the monitor the roles' SCRAM secrets, so that nobody can log in there
	// with scram_passthrough.
	FoundNoSecrets
	// FoundNoLogin is a server on which the monitor cannot log in, so that the rest could not be looked at.
	FoundNoLogin
)

var findingNames = [...]string{FoundTrust: "trust", FoundNoSecrets: "no secrets", FoundNoLogin: "no login"}

// String returns the finding in the words of logs and pages.
func (f Finding) String() string { return findingNames[f] }

// Inspection is what a look at a server's access rules has found.
type Inspection struct {
	// Findings are what to mend, each with a sentence that names the fix, fit for the log and for the operator.
	Findings map[Finding]string
	// LeafHash is the SHA-256 of the certificate that the server presented, in DER; zero without TLS.
	LeafHash [32]byte
}

// Inspect logs in as the monitor does, and looks at what the server asks of strangers who come from this address. With secrets
// it also tries the function that `pgreplicaproxy sql` prints. It opens four connections at most, one after another, for the
// monitor's timeout each; the context ends it early. The errors of a server that cannot be reached are findings too.
func Inspect(ctx context.Context, t Target, config MonitorConfig, secrets bool) Inspection {
	result := Inspection{Findings: make(map[Finding]string)}
	limited := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, orDefault(config.Timeout, DefaultTimeout))
		defer cancel()
		return do(ctx)
	}
	if err := limited(func(ctx context.Context) error { return result.logIn(ctx, t, config, secrets) }); err != nil {
		result.Findings[FoundNoLogin] = fmt.Sprintf("the monitor cannot log in: %v", err)
		return result
	}
	for _, who := range strangers(t, config.Credentials) {
		err := limited(func(ctx context.Context) error {
			asked, err := asksFor(ctx, t, who.user, config.Credentials.Database)
			if err == nil && !asked {
				result.Findings[FoundTrust] = fmt.Sprintf("pg_hba.conf lets %s in from the proxy's address without a password: "+
					"write scram-sha-256 instead of trust there", who.words)
			}
			return err
		})
		if err != nil || result.Findings[FoundTrust] != "" { // what a server does not answer now, it answers the next time
			break
		}
	}
	return result
}

// logIn opens the monitor's session, and asks for a secret on it.
func (i *Inspection) logIn(ctx context.Context, t Target, config MonitorConfig, secrets bool) error {
	s, err := logIn(ctx, t, config.Credentials, orDefault(config.Timeout, DefaultTimeout))
	if err != nil {
		return err
	}
	defer s.close()
	i.LeafHash = s.leafHash
	if !secrets {
		return nil
	}
	result := s.pg.ExecParams(ctx, secretQuery, secretArguments("", false), nil, nil, nil).Read()
	var server *pgconn.PgError
	if errors.As(result.Err, &server) {
		i.Findings[FoundNoSecrets] = fmt.Sprintf("the monitor cannot read the roles' SCRAM secrets: %v", explainSecret(server))
		return nil
	}
	return result.Err
}

// stranger is a role to come as, and what a message calls it.
type stranger struct{ user, words string }

// strangers are the roles that a server is tried with: one that no server has, which only a rule for everybody lets in, and
// the monitor's. On a unix socket the latter may be let in as the operating system's user of that name (peer), and rightly.
func strangers(t Target, c Credentials) []stranger {
	list := []stranger{{"pgreplicaproxy_stranger", "every role"}}
	if t.Network != "unix" && c.Password != "" {
		list = append(list, stranger{c.User, "the monitor's role"})
	}
	return list
}

// asksFor reports whether a server wants anything of a role before it lets it in. Nothing is answered: the connection is closed
// at the server's first word. A server that lets a role in says so before it looks whether there is such a role
// (src/backend/utils/init/postinit.c, InitPostgres).
func asksFor(ctx context.Context, t Target, user, database string) (bool, error) {
	conn, err := Dial(ctx, t, Origin{})
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	packet, err := wire.Startup{Version: wire.Version30, Params: []wire.Param{
		{Name: "user", Value: user}, {Name: "database", Value: database}, {Name: "application_name", Value: "pgreplicaproxy"},
	}}.AppendBinary(nil)
	if err != nil {
		return false, err
	}
	if _, err := conn.Write(packet); err != nil {
		return false, err
	}
	first, err := wire.NewReader(conn).Next(wire.MaxLogin)
	if err != nil || first.Type != wire.TypeAuthentication {
		return true, err // refused, which is as good as asked
	}
	code, _, err := first.Authentication()
	return code != wire.AuthOK, err
}
