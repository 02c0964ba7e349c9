package proxy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

// Binding says what SCRAM's channel binding (RFC 5929, tls-server-end-point) is worth between a client and a server. The zero
// value is [BindingUnknown].
type Binding uint8

// The bindings.
const (
	// BindingUnknown is a server that did not show a certificate yet.
	BindingUnknown Binding = iota
	// BindingEndToEnd is a server with the very certificate that clients are shown: messages are relayed, and the binding spans both
	// legs.
	BindingEndToEnd
	// BindingPassthrough binds each leg to its own certificate (scram_passthrough).
	BindingPassthrough
	// BindingPlain is a server leg without TLS, over which messages are relayed: clients that prefer channel binding do
	// without, those that require it give up.
	BindingPlain
	// BindingBroken is a server with another certificate than the one that clients are shown, to which messages are relayed:
	// clients that bind their login, as libpq and pgx do by default, are refused.
	BindingBroken
)

var bindingNames = [...]string{
	BindingUnknown: "unknown", BindingEndToEnd: "end-to-end", BindingPassthrough: "passthrough", BindingPlain: "plain",
	BindingBroken: "broken",
}

// String returns the binding in the words of pages and logs.
func (b Binding) String() string { return bindingNames[b] }

// bindingOf judges one server by the certificate it presented last and those that the front presents.
func bindingOf(passthrough bool, st backends.State, fronts [][32]byte) Binding {
	switch {
	case passthrough:
		return BindingPassthrough
	case st.Target.Network == "unix", st.Target.TLS == backends.TLSOff:
		return BindingPlain
	case st.LeafHash == [32]byte{}:
		return BindingUnknown
	case slices.Contains(fronts, st.LeafHash):
		return BindingEndToEnd
	default:
		return BindingBroken
	}
}

// Audit is what is known of the way that logins take to one server.
type Audit struct {
	Binding Binding
	// Findings are what to mend on the server, each with a sentence that says how; see backends.Inspect. They are as of
	// Inspected, which is the zero time before the first look.
	Findings  map[backends.Finding]string
	Inspected time.Time
}

// auditInterval is the time between two looks at a server's access rules. They change with the hands of a person.
const auditInterval = time.Minute

// audits are the inspections of one cluster's servers. The zero value is empty and ready.
type audits struct {
	mu     sync.Mutex
	byName map[string]Audit // without Binding
}

// note keeps an inspection, and returns the findings before it.
func (a *audits) note(backend string, findings map[backends.Finding]string, at time.Time) map[backends.Finding]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName == nil {
		a.byName = make(map[string]Audit)
	}
	before := a.byName[backend].Findings
	a.byName[backend] = Audit{Findings: findings, Inspected: at}
	return before
}

// forget drops servers that are gone.
func (a *audits) forget(known *backends.Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.byName, func(name string, _ Audit) bool {
		_, named := known.State(name)
		return !named
	})
}

func (a *audits) of(backend string) Audit {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byName[backend]
}

// Audits returns what is known of the way to each server, by the names of the cluster and the server. The binding is as of the
// monitor's last login.
func (s *Server) Audits() map[string]map[string]Audit {
	now := s.settings.Load()
	var fronts [][32]byte
	if now.leaves != nil {
		fronts = now.leaves()
	}
	list := make(map[string]map[string]Audit, len(now.clusters))
	for name, c := range now.clusters {
		list[name] = make(map[string]Audit)
		for _, st := range c.monitor.Snapshot().States {
			a := c.audits.of(st.Target.Name)
			a.Findings = maps.Clone(a.Findings)
			a.Binding = bindingOf(c.Passthrough != nil, st, fronts)
			list[name][st.Target.Name] = a
		}
	}
	return list
}

// audit looks at the access rules of every server that is up, now and then and after each Update, until ctx ends. A change is logged.
func (s *Server) audit(ctx context.Context, u *upkeep) {
	select {
	case <-u.monitor.FirstRound():
	case <-ctx.Done():
		return
	}
	ticks := time.NewTicker(auditInterval)
	defer ticks.Stop()
	for {
		now := s.settings.Load()
		c := now.clusters[u.name] // nil until Update is done
		for _, st := range u.monitor.Snapshot().States {
			if st.Status == backends.Up && c != nil {
				s.inspect(ctx, c, st.Target)
			}
		}
		select {
		case <-ticks.C:
		case <-now.replaced:
		case <-ctx.Done():
			return
		}
	}
}

// inspect looks at one server. A login of the monitor that fails here is nothing to tell: the monitor itself has noticed.
func (s *Server) inspect(ctx context.Context, c *cluster, target backends.Target) {
	found := backends.Inspect(ctx, target, c.Monitor, c.asksForSecrets()).Findings
	if _, failed := found[backends.FoundNoLogin]; failed || ctx.Err() != nil {
		return
	}
	before := c.audits.note(target.Name, found, time.Now())
	log := s.log.With("cluster", target.Cluster, "backend", target.Name)
	for _, finding := range slices.Sorted(maps.Keys(found)) {
		if before[finding] != found[finding] {
			log.Warn("server access", "finding", finding.String(), "detail", found[finding])
		}
	}
	for _, finding := range slices.Sorted(maps.Keys(before)) {
		if found[finding] == "" {
			log.LogAttrs(ctx, slog.LevelInfo, "server access mended", slog.String("finding", finding.String()))
		}
	}
}
