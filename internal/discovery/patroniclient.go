package discovery

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

// Patroni says where Patroni's REST interface is.
type Patroni struct {
	// URLs are those of members, such as "http://10.0.0.11:8008". Any that answers will do.
	URLs []string
	// Interval is the time between two questions.
	Interval time.Duration
	// RootCAs are who vouches for URLs with https; nil is the system's.
	RootCAs *x509.CertPool
	// Target is how the members are, but for their names and addresses.
	Target backends.Target
	// LeaderOnly takes Patroni's word for who leads, and no servers.
	LeaderOnly bool
}

// attemptTimeout bounds the question to one URL.
const attemptTimeout = 2 * time.Second

// patroniSource is a Patroni at work.
type patroniSource struct {
	Patroni
	client *http.Client
	first  int // of URLs: the one that answered last
}

func newPatroniSource(p Patroni, cluster string) *patroniSource {
	p.Target.Cluster = cluster
	return &patroniSource{Patroni: p, client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: p.RootCAs, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		// Whoever could send us elsewhere could name the servers just as well, but not by accident.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (p *patroniSource) interval() time.Duration { return p.Interval }

func (p *patroniSource) subject() string { return "patroni" } // a cluster has one

// String names the source in the log.
func (p *patroniSource) String() string { return "Patroni at " + strings.Join(p.URLs, ", ") }

func (p *patroniSource) same(other source) bool {
	o, ok := other.(*patroniSource)
	return ok && slices.Equal(p.URLs, o.URLs) && p.Interval == o.Interval && p.LeaderOnly == o.LeaderOnly && p.RootCAs.Equal(o.RootCAs) &&
		p.Target.Weight == o.Target.Weight && p.Target.SameServer(o.Target)
}

func (p *patroniSource) inherit(found Found) Found {
	var all Found
	if p.LeaderOnly {
		return all
	}
	for _, old := range found.Targets {
		t := p.Target
		t.Name, t.Network, t.Address, t.Weight = old.Name, old.Network, old.Address, min(old.Weight, t.Weight)
		all.Targets = append(all.Targets, t)
	}
	return all
}

// ask asks one URL after the other, the one first that answered last.
func (p *patroniSource) ask(ctx context.Context) (Found, error) {
	var failures error
	for i := range p.URLs {
		n := (p.first + i) % len(p.URLs)
		found, err := p.askURL(ctx, p.URLs[n])
		if err == nil {
			p.first = n
			return found, nil
		}
		failures = errors.Join(failures, err)
	}
	return Found{}, failures
}

func (p *patroniSource) askURL(ctx context.Context, url string) (Found, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	url = strings.TrimSuffix(url, "/") + "/cluster"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Found{}, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return Found{}, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return Found{}, fmt.Errorf("get %s: status %d", url, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return Found{}, fmt.Errorf("get %s: %w", url, err)
	}
	if len(body) > maxAnswer {
		return Found{}, fmt.Errorf("get %s: more than %d bytes", url, maxAnswer)
	}
	found, err := parseMembers(body, p.Target)
	if err != nil {
		return Found{}, fmt.Errorf("get %s: %w", url, err)
	}
	if p.LeaderOnly {
		found.Targets = nil
	}
	return found, nil
}
