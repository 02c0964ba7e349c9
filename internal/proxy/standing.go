package proxy

import (
	"sync"

	"github.com/replicon/pgreplicaproxy/policy"
)

// standings are what the proxy itself knows of the servers of one cluster, beside what its monitor tells. The zero value
// knows nothing. A server is known from its first mention on.
type standings struct {
	mu     sync.Mutex
	byName map[string]*standing
}

// standing is what is known of one server. The zero value is a server that nothing is known of.
type standing struct {
	// draining keeps new sessions away, by an operator's wish.
	draining bool
}

// of returns the standing of a server. The caller holds mu.
func (s *standings) of(name string) *standing {
	st := s.byName[name]
	if st == nil {
		if s.byName == nil {
			s.byName = make(map[string]*standing)
		}
		st = &standing{}
		s.byName[name] = st
	}
	return st
}

// fill adds to servers as the monitor knows them what is known here. They stay as they are; a copy is returned.
func (s *standings) fill(known []policy.Backend) []policy.Backend {
	list := append([]policy.Backend(nil), known...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		list[i].Draining = s.of(list[i].Name).draining
	}
	return list
}

// draining reports whether an operator has taken a server out.
func (s *standings) draining(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(name).draining
}

// drain notes an operator's wish.
func (s *standings) drain(name string, drain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(name).draining = drain
}
