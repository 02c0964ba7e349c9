package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// What happens to the program itself and to its certificates is told to the events from here.

// certificateLook is how often certificates are looked at for news.
const certificateLook = 5 * time.Second

// tell adds an event about the program.
func (s *service) tell(level events.Level, format string, args ...any) {
	s.events.Add(events.Event{Level: level, Kind: events.Service, Text: fmt.Sprintf(format, args...)})
}

// followCertificates tells of certificates that are new, that cannot be renewed and that are about to expire, until ctx ends.
func (s *service) followCertificates(ctx context.Context) {
	tick := time.NewTicker(certificateLook)
	defer tick.Stop()
	var before []tlsfront.CertificateStatus
	for {
		now := s.current.Load().certificates.status()
		for _, e := range certificateNews(before, now, time.Now()) {
			s.events.Add(e)
		}
		before = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// certificateNews compares certificates as they were with what they are. Nil is before the first look, when all is as it should be
// unless something is wrong.
func certificateNews(before, now []tlsfront.CertificateStatus, at time.Time) []events.Event {
	known := make(map[string]tlsfront.CertificateStatus)
	for _, c := range before {
		known[certificateKey(c)] = c
	}
	var list []events.Event
	add := func(level events.Level, format string, args ...any) {
		list = append(list, events.Event{Level: level, Kind: events.Certificate, Text: fmt.Sprintf(format, args...)})
	}
	for _, c := range now {
		was, found := known[certificateKey(c)]
		names := strings.Join(c.Names, ", ")
		if before != nil && c.Obtained() && (!found || !was.NotAfter.Equal(c.NotAfter)) {
			add(events.Info, "certificate of %s is new, and valid until %s", names, c.NotAfter.UTC().Format(time.DateTime))
		}
		if c.LastError != "" && c.LastError != was.LastError {
			add(events.Error, "certificate of %s cannot be replaced: %s", names, c.LastError)
		}
		if c.Obtained() && c.ExpiresSoon(at) && (!found || !was.NotAfter.Equal(c.NotAfter) || !was.ExpiresSoon(at.Add(-certificateLook))) {
			add(events.Warning, "certificate of %s expires at %s", names, c.NotAfter.UTC().Format(time.DateTime))
		}
	}
	return list
}

// certificateKey tells certificates apart that take each other's place.
func certificateKey(c tlsfront.CertificateStatus) string {
	if c.File != "" {
		return c.File
	}
	return c.Source + " " + strings.Join(c.Names, " ")
}
