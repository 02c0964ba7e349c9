package tlsfront

import (
	"crypto/tls"
	"testing"
	"time"
)

// Every connection is told of once, by what became of it.
func TestObserve(t *testing.T) {
	for _, tc := range []struct {
		name    string
		talk    func(t *testing.T, p *peer)
		outcome Outcome
		tls     uint16
	}{
		{"client", func(_ *testing.T, p *peer) { bySSLRequest(p).send(startup(3, 0, parameters)) }, OutcomeClient, tls.VersionTLS13},
		{"cancel in clear", func(_ *testing.T, p *peer) { p.send(cancelRequest) }, OutcomeCancel, 0},
		{"closed at once", func(_ *testing.T, p *peer) { _ = p.Close() }, OutcomeLeft, 0},
		{"silent", func(*testing.T, *peer) {}, OutcomeTimeout, 0},
		{"no TLS", func(_ *testing.T, p *peer) { p.send(startup(3, 0, parameters)) }, OutcomeTLSRequired, 0},
		{"no TLS either", func(_ *testing.T, p *peer) { p.send(sslRequest); p.want("S"); p.send(sslRequest) }, OutcomeTLS, 0},
		{"not PostgreSQL", func(_ *testing.T, p *peer) { p.send("GET / HTTP/1.1\r\n\r\n") }, OutcomeProtocol, 0},
		{"twice inside", func(_ *testing.T, p *peer) { bySSLRequest(p).send(sslRequest) }, OutcomeProtocol, tls.VersionTLS13},
	} {
		t.Run(tc.name, func(t *testing.T) {
			observed := make(chan Negotiation, 2)
			config := Config{LoginTimeout: patience, Observe: func(n Negotiation) { observed <- n }}
			if tc.outcome == OutcomeTimeout {
				config.LoginTimeout = 50 * time.Millisecond
			}
			f := startFront(t, loopback(t), config, nil)
			tc.talk(t, f.dial(t))
			got := <-observed
			if got.Outcome != tc.outcome || got.TLS != tc.tls || got.Took <= 0 {
				t.Errorf("got %+v, want %s with TLS %x", got, tc.outcome, tc.tls)
			}
			f.stop(t)
			if len(observed) > 0 {
				t.Errorf("told of it again: %+v", <-observed)
			}
		})
	}
}
