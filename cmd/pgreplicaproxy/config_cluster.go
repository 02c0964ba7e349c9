package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
)

// labelForm keeps the names of clusters and servers fit for logs, metrics and command lines.
var labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

func (c *converter) clusters(blocks []*rawCluster) ([]proxy.ClusterConfig, map[string]passthroughConfig) {
	if len(blocks) == 0 {
		c.diags = append(c.diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "No cluster",
			Detail: `The file names no server. Write cluster "main" { backend "db1" { address = "10.0.0.11:5432" } }.`,
		})
	}
	var list []proxy.ClusterConfig
	var passthrough map[string]passthroughConfig
	lines := map[string]int{}
	for _, raw := range blocks {
		c.label("cluster", raw.Name, raw.NameRange, lines)
		cluster, mode := c.cluster(raw)
		list = append(list, cluster)
		if mode == modePassthrough {
			if passthrough == nil {
				passthrough = make(map[string]passthroughConfig)
			}
			passthrough[raw.Name] = passthroughConfig{
				SecretsFile: c.file(raw.SecretsFile), MockKeyFile: c.file(raw.MockKeyFile),
				Superusers: c.boolean(raw.AllowSuperusers, false),
			}
		}
	}
	return list, passthrough
}

// label checks the name of a block against the rules for names and against those before it.
func (c *converter) label(what, name string, at hcl.Range, lines map[string]int) {
	if !labelForm.MatchString(name) {
		c.fail(at, "Bad name", "A %s's name is made of letters, digits, dots, dashes and underscores, a letter or digit first and last.", what)
	}
	if line, taken := lines[name]; taken {
		c.fail(at, "Duplicate name", "The %s on line %d has the name %q already. Give this one another.", what, line, name)
		return
	}
	lines[name] = at.Start.Line
}

func (c *converter) cluster(raw *rawCluster) (cfg proxy.ClusterConfig, mode string) {
	cfg.Allow = defaultMethods
	cfg.Monitor.Cluster = raw.Name
	servers := c.targets(raw)
	c.backendTLS(raw, servers)
	mode = c.authentication(raw, servers)
	c.discovery(raw, servers, &cfg)
	cfg.NameClients = c.boolean(raw.NameClients, false)
	cfg.BroadcastCancels = c.boolean(raw.BroadcastCancels, false)
	c.monitor(raw, servers, &cfg)
	c.placement(raw, &cfg)
	c.judgement(raw, &cfg.Monitor)
	if raw.AllowAuthentication != nil {
		cfg.Allow = c.methods(raw.AllowAuthentication, servers)
	}
	return cfg, mode
}

// methods returns what a server may ask for, and wants a protected way to the servers for what can be read on it.
func (c *converter) methods(a *hcl.Attribute, targets []backends.Target) proxy.Methods {
	var allow proxy.Methods
	before := len(c.diags)
	words := c.words(a)
	if words == nil && len(c.diags) == before {
		c.fail(a.Expr.Range(), "No authentication method",
			"No client could log in. The methods are %s; leave the argument out for scram-sha-256.", quoted(proxy.MethodNames()))
	}
	for _, w := range words {
		m, err := proxy.ParseMethod(w.text)
		if err != nil {
			c.fail(w.at, "Unknown word", "%v.", err)
			continue
		}
		allow |= m
		open := firstOpen(targets)
		switch {
		case (m == proxy.MethodPassword || m == proxy.MethodOAuth) && open != "":
			c.fail(w.at, "Passwords over an open connection",
				`%q sends what a client proves itself with as it is, and the way to backend %q is not protected. `+
					`Add backend_tls { mode = "verify-full" }, use a unix socket, or remove the word.`, w.text, open)
		case m == proxy.MethodTrust:
			c.warn(w.at, "Servers may let clients in unasked",
				`With "trust" a server whose pg_hba.conf trusts the proxy's address lets every client of the proxy in, as any role. `+
					`Prefer scram-sha-256 there, also for this proxy's address.`)
		}
	}
	return allow
}

// firstOpen names a server the way to which others may read or change, empty if there is none.
func firstOpen(targets []backends.Target) string {
	for _, t := range targets {
		if !t.Secure() {
			return t.Name
		}
	}
	return ""
}

// The modes of authentication.
const (
	modeRelay       = "relay"
	modePassthrough = "scram_passthrough"
)

// authentication returns the mode, and wants it spelled out where relaying does not suit every client.
func (c *converter) authentication(raw *rawCluster, targets []backends.Target) string {
	mode := modeRelay
	if raw.Authentication != nil {
		mode = choice(c, raw.Authentication, modeRelay, oneOf("a mode of authentication", map[string]string{
			modeRelay: modeRelay, modePassthrough: modePassthrough,
		}))
	} else if slices.ContainsFunc(targets, func(t backends.Target) bool { return t.TLS != backends.TLSOff }) {
		c.fail(raw.BackendTLS.Def, "Authentication has to be named",
			`With TLS to the servers the cluster has to say how logins pass. authentication = "scram_passthrough" suits every `+
				`client: the proxy reads the roles' SCRAM secrets from the servers and binds each leg to its own certificate. `+
				`authentication = "relay" passes every message unchanged: clients that bind SCRAM to the TLS connection, as psql and `+
				`pgx do by default, can then log in only where the servers present the very certificate that this proxy presents; `+
				`with another one they need channel_binding=disable.`)
	}
	for _, a := range []*hcl.Attribute{raw.SecretsFile, raw.MockKeyFile, raw.AllowSuperusers} {
		if a != nil && mode != modePassthrough {
			c.fail(a.NameRange, "Not used", `%s belongs to authentication = "scram_passthrough". Remove it, or write that.`, a.Name)
		}
	}
	if a := raw.AllowSuperusers; a != nil && raw.SecretsFile != nil {
		c.fail(a.NameRange, "Not used", "With secrets_file a superuser may log in if the file lists the role. Remove allow_superusers.")
	}
	if a := raw.AllowAuthentication; a != nil && mode == modePassthrough {
		c.fail(a.NameRange, "Not used", `authentication = "scram_passthrough" speaks SCRAM with clients and with servers, and nothing `+
			`else. Remove allow_authentication, or write authentication = "relay".`)
	}
	return mode
}

// file returns the path of a file that has to be there, empty when the argument was left out.
func (c *converter) file(a *hcl.Attribute) string {
	name := c.text(a, "")
	if name == "" {
		return ""
	}
	path := c.path(name)
	if !c.secrets {
		return path
	}
	if f, err := os.Open(path); err != nil {
		c.fail(a.Expr.Range(), "File cannot be read", "%s.", sentence(err.Error()))
	} else {
		_ = f.Close()
	}
	return path
}

func (c *converter) monitor(raw *rawCluster, servers []backends.Target, cfg *proxy.ClusterConfig) {
	m := raw.Monitor
	if m == nil {
		m = &rawMonitor{Def: raw.Def}
	}
	cfg.AllowMonitorUser = c.boolean(m.AllowAsClient, false)
	cfg.Monitor.Interval = c.duration(m.Interval, defaultMonitorInterval, time.Millisecond)
	cfg.Monitor.Timeout = c.duration(m.Timeout, defaultMonitorTimeout, time.Millisecond)
	cfg.Monitor.Credentials = backends.Credentials{
		User:     c.name(m.User, defaultMonitorUser),
		Database: c.name(m.Database, defaultMonitorDatabase),
		Password: c.password(m.Password),
	}
	if m.Password == nil && anyTCP(servers) {
		c.warn(m.Def, "No password for the monitor",
			"The servers of cluster %q have to let role %q in without one. Better give it one: password = env(\"PGREPLICAPROXY_MONITOR_PASSWORD\").",
			raw.Name, cfg.Monitor.Credentials.User)
	}
}

func anyTCP(targets []backends.Target) bool {
	for _, t := range targets {
		if t.Network == "tcp" {
			return true
		}
	}
	return false
}

func (c *converter) password(a *hcl.Attribute) string {
	if a == nil || !c.secrets {
		return ""
	}
	return c.secret(a, "PGREPLICAPROXY_MONITOR_PASSWORD")
}

// secret points every diagnostic at the argument's name: the value may stand on further lines, and none of them belongs on a
// screen. For the same reason HCL's own explanations of a bad value are not passed on. variable is the name to advise.
func (c *converter) secret(a *hcl.Attribute, variable string) string {
	call, known := a.Expr.(*hclsyntax.FunctionCallExpr)
	if known {
		_, known = c.eval.Functions[call.Name]
	}
	before := len(c.diags)
	name := strings.ToUpper(a.Name[:1]) + a.Name[1:]
	text, ok := value[string](c, a, aString)
	for _, d := range c.diags[before:] {
		d.Subject, d.Context, d.Expression, d.EvalContext = a.NameRange.Ptr(), nil, nil, nil
		if !known {
			d.Summary = name + " cannot be read"
			d.Detail = "Write " + a.Name + ` = env("NAME"), file("path"), or a string in double quotes, where ${ and %{ are written $${ and %%{.`
		}
	}
	if ok && (!known || len(call.Args) > 1) {
		c.warn(a.NameRange, name+" in the file",
			`Whoever reads this file knows the %s. Write %[1]s = env(%q), or file("path").`, a.Name, variable)
	}
	return text
}
