package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/wire"
)

// What a session asks of package admission, in the order of a login: knock, fresh before each proof of the client, enter or
// failed, and leave with the session.

// knock asks whether the session would be let in, and waits its turn after failed logins.
func (s *session) knock(ctx context.Context) error {
	if err := s.visit.Check(clip(s.request.User, maxName), s.decision.Database); err != nil {
		return errLimit(err)
	}
	ctx, cancel := context.WithDeadline(ctx, s.client.Deadline)
	defer cancel()
	var err error
	if s.trial, err = s.visit.Attempt(ctx, clip(s.request.User, maxName)); err != nil {
		return errLimit(err)
	}
	return nil
}

// enter is called once the client has proven who it is, before it hears of it: what failed before is forgotten, and the
// session takes its place.
func (s *session) enter() error {
	s.trial.Succeeded()
	if err := s.visit.Enter(clip(s.request.User, maxName), s.decision.Database); err != nil {
		return errLimit(err)
	}
	return nil
}

// guessed notes an error of the server, in answer to what the client has sent to prove who it is.
func (s *session) guessed(sqlState string) {
	if sqlState == wire.InvalidPassword || sqlState == wire.InvalidAuthorizationSpecification {
		s.trial.Failed()
	}
}

// judged notes that the proxy itself found the client's proof wrong.
func (s *session) judged(err error) {
	var passed *serverError
	if !errors.As(err, &passed) && reasonOf(err) == ReasonPassword {
		s.trial.Failed()
	}
}

// fresh refuses one of many guesses that came at once.
func (s *session) fresh() error {
	if err := s.trial.Check(); err != nil {
		return errLimit(err)
	}
	return nil
}

// notFull returns the servers that have a place for the session.
func (s *session) notFull(names []string) []string {
	known := s.cluster.known()
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		st, ok := known.State(name)
		return ok && !s.visit.Free(place(st.Target), st.Target.MaxSessions)
	})
}

// place is what package admission knows a server by.
func place(t backends.Target) string { return t.Cluster + "/" + t.Name }

// sit takes a place at a server.
func (s *session) sit(target backends.Target) error {
	if !s.visit.Sit(place(target), target.MaxSessions) {
		return errServerFull(target.Name)
	}
	return nil
}
