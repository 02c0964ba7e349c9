package proxy

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// place turns the startup packet into a request, and the request into a decision, for which the session may have to wait.
func (s *session) place(ctx context.Context) error {
	if err := s.visit.Late(); err != nil {
		return errLimit(err)
	}
	q, err := s.ask()
	if err != nil {
		return err
	}
	if entry := s.settings.routes.Enter(q); !entry.Allowed {
		return errNoEntry(entry)
	}
	s.decide()
	if s.decision.Route >= 0 {
		s.route = s.settings.routes.Routes[s.decision.Route].String()
	}
	if c := s.cluster; c != nil && !c.AllowMonitorUser && clip(q.User, maxName) == c.Monitor.Credentials.User {
		return errMonitorUser(q.User)
	}
	if s.decision.Verdict == policy.Refuse {
		return errNoRoute(s.decision, q)
	}
	if err := s.knock(ctx); err != nil {
		return err
	}
	if s.decision.Verdict == policy.Wait {
		return s.hold(ctx, 0)
	}
	return nil
}

// minLSN is the setting in the client's options that names the position in the write-ahead log which a replica must have
// replayed to take the session. It is the proxy's: no server sees it.
const minLSN = "pgreplicaproxy.min_lsn"

// ask reads the request from the startup packet.
func (s *session) ask() (policy.Request, error) {
	startup := s.client.Opening.Startup
	q := policy.Request{User: startup.User(), Database: startup.Database(), Address: s.client.IP()}
	if s.client.TLS != nil {
		q.ServerName, q.TLS = s.client.TLS.ServerName, true
		q.Certificate = len(s.client.TLS.VerifiedChains) > 0
	}
	var err error
	if q.User == "" {
		err = errNoUser
	} else if q.Replication, err = startup.Replication(); err != nil {
		value, _ := startup.Get("replication")
		err = errors.Join(errReplication(value), err)
	} else if rest, value, found := startup.TakeSetting(minLSN); found {
		s.client.Opening.Startup = rest
		if q.Replayed, err = policy.ParseLSN(value); err != nil {
			err = errors.Join(errMinLSN(value), err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request = q
	return q, err
}

// startup is the packet that the server is to see: the client's own, with no more than the database changed, and
// application_name where the cluster wants the client's address there.
func (s *session) startup() wire.Startup {
	startup := s.client.Opening.Startup
	if startup.Database() != s.decision.Database {
		startup = startup.With("database", s.decision.Database)
	}
	if s.cluster.NameClients && !s.request.Replication { // whose name may stand in synchronous_standby_names
		name, _ := startup.Get("application_name")
		startup = startup.With("application_name", nameClient(name, s.client.Address))
	}
	return startup
}

// maxName is the longest name that servers know; they cut longer ones (NAMEDATALEN in src/include/pg_config_manual.h).
const maxName = 63

// clip cuts a name to at most n bytes.
func clip(name string, n int) string { return name[:min(len(name), max(n, 0))] }

// nameClient adds the client's address to its application_name. It shortens the name where the server would cut the address.
func nameClient(name string, address net.Addr) string {
	where := "local"
	if address.Network() != "unix" {
		where = address.String()
	}
	suffix := " (" + where + ")"
	return strings.TrimLeft(clip(name, maxName-len(suffix))+suffix, " ")
}

// originOf returns on whose behalf servers are dialled for a client.
func originOf(client *tlsfront.Client) backends.Origin {
	return backends.Origin{Source: client.Address, Destination: client.Destination}
}
