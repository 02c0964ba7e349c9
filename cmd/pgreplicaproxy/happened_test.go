package main

import (
	"slices"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

func TestCertificateNews(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	const day = 24 * time.Hour
	fine := tlsfront.CertificateStatus{Source: "acme", Names: []string{"a"}, NotBefore: at.Add(-10 * day), NotAfter: at.Add(80 * day)}
	renewed := fine
	renewed.NotAfter = at.Add(90 * day)
	failing := fine
	failing.LastError = "no answer"
	old := fine
	old.NotBefore, old.NotAfter = at.Add(-88*day), at.Add(2*day)
	missing := tlsfront.CertificateStatus{Source: "acme", Names: []string{"a"}}
	type list = []tlsfront.CertificateStatus
	for _, tc := range []struct {
		name        string
		before, now list
		want        []string
	}{
		{"fine at the start", nil, list{fine}, nil},
		{"fine still", list{fine}, list{fine}, nil},
		{"renewed", list{fine}, list{renewed}, []string{"info certificate of a is new, and valid until 2026-08-02 03:02:01"}},
		{"obtained", list{missing}, list{fine}, []string{"info certificate of a is new, and valid until 2026-07-23 03:02:01"}},
		{"cannot be renewed", list{fine}, list{failing}, []string{"error certificate of a cannot be replaced: no answer"}},
		{"cannot be renewed still", list{failing}, list{failing}, nil},
		{"can be again", list{failing}, list{fine}, nil},
		{"about to expire at the start", nil, list{old}, []string{"warning certificate of a expires at 2026-05-06 03:02:01"}},
		{"about to expire still", list{old}, list{old}, nil},
		{"gone", list{fine}, list{}, nil},
	} {
		var got []string
		for _, e := range certificateNews(tc.before, tc.now, at) {
			got = append(got, string(e.Level)+" "+e.Text)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
	// The moment at which it begins to be late is told of once.
	turn := fine
	for margin := 25 * day; margin > 0; margin -= time.Second {
		if turn.NotAfter = at.Add(margin); turn.ExpiresSoon(at) {
			break
		}
	}
	if n := len(certificateNews(list{turn}, list{turn}, at)); n != 1 {
		t.Errorf("at the turn: %d events, want one", n)
	}
	if n := len(certificateNews(list{turn}, list{turn}, at.Add(certificateLook))); n != 0 {
		t.Errorf("a look later: %d events, want none", n)
	}
}
