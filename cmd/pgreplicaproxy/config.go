package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// config is one configuration file as the program uses it: plain values, every default filled in, every path ready to
// open. HCL ends here. It is read only once loaded.
//
// Where to read next: config_schema.go for the file's keys, config_defaults.go for what they are when left out, the
// other config_*.go for what is asked of them, config_diagnostics.go for how mistakes are told.
type config struct {
	// User is whom the program becomes once its sockets are bound; empty is whoever has started it.
	User string
	// StateDir is where the local CA is kept. It need not exist yet.
	StateDir string
	// DrainTimeout is how long sessions may go on once they are asked to end. It is positive.
	DrainTimeout time.Duration
	// LoginTimeout bounds a login, from accept to AuthenticationOk. It is positive.
	LoginTimeout time.Duration
	// Listeners are never empty and never overlap.
	Listeners []listenerConfig
	// Certificates are loadable key pairs in the order of the file. Without any, and without ACME, the local CA's serves.
	Certificates []tlsfront.CertificateFile
	// ACME says which certificates to obtain, nil none. Its Storage, StandIn and Logger are not set yet: ACMEStorage is the
	// connection string of the database that proxies share, empty for none.
	ACME        *tlsfront.ACMEConfig
	ACMEStorage hidden
	// Names are further host names and IP addresses for the local CA's certificate, set only where that serves.
	Names []string
	// ClientCertificates says which certificates clients may show; nil asks for none.
	ClientCertificates *tlsfront.ClientCertificateConfig
	// MinVersion is the least version of TLS that clients may use, as crypto/tls numbers them.
	MinVersion uint16
	// Clusters are never empty, each with at least one server.
	Clusters []proxy.ClusterConfig
	// Passthrough has an entry for each cluster whose authentication is "scram_passthrough", by its name.
	Passthrough map[string]passthroughConfig
	// Routes name only clusters of Clusters, and say who may come in.
	Routes policy.Rules
	// Limits bound what clients may take.
	Limits admission.Limits
	// Admin is the admin listener, which there always is.
	Admin adminConfig
	// LogLevel is the least level logged, LogFormat "auto", "text" or "json".
	LogLevel  slog.Level
	LogFormat string
}

// listenerConfig is one address to accept clients on, in the terms of net.Listen.
type listenerConfig struct {
	// Network is "tcp" or "unix".
	Network string
	// Address is host:port with the host empty for every interface, or the path of the socket to make.
	Address string
	// TLSOptional takes clients without TLS too. It is only ever set for loopback addresses and unix sockets.
	TLSOptional bool
	// Private keeps other users of the machine off a unix socket. It is set for the admin listener.
	Private bool
	// ProxyProtocolFrom are the peers that send PROXY headers. It is never set together with TLSOptional.
	ProxyProtocolFrom tlsfront.Peers
}

// passthroughConfig is where the mode scram_passthrough has its secrets from.
type passthroughConfig struct {
	// SecretsFile holds the secrets; empty reads them from the servers.
	SecretsFile string
	// MockKeyFile holds the key of answers for unknown roles; empty is one that is kept in StateDir.
	MockKeyFile string
	// Superusers says that they may log in through the proxy. With SecretsFile they may if it lists them.
	Superusers bool
}

// loadConfig reads the file at path, with the secrets, keys and certificates it refers to. The configuration is nil
// when the diagnostics have errors; warnings come with a usable one.
func loadConfig(path string) (*config, diagnostics) {
	return readConfig(path, converter{secrets: true})
}

// loadConfigWithoutSecrets is loadConfig for commands that need no secret: monitor passwords are left empty and key
// files unread, so that it works where they are out of reach.
func loadConfigWithoutSecrets(path string) (*config, diagnostics) {
	return readConfig(path, converter{})
}

// loadConfigForAdmin is loadConfigWithoutSecrets but for the token of the admin listener.
func loadConfigForAdmin(path string) (*config, diagnostics) {
	return readConfig(path, converter{adminToken: true})
}

func readConfig(path string, c converter) (*config, diagnostics) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(err)
	}
	file, diags := parseHCL(path, src)
	if diags.hasErrors() {
		return nil, diags
	}
	c.dir = filepath.Dir(path)
	c.eval = &hcl.EvalContext{Functions: functions(c.dir)}
	var raw rawConfig
	c.diags = gohcl.DecodeBody(file.Body, nil, &raw) // arguments stay expressions
	cfg := c.convert(&raw)
	diags.list = c.diags
	if diags.hasErrors() {
		return nil, diags
	}
	return cfg, diags
}

// parseHCL reads src as HCL. Only syntax is looked at; the file is usable when there are no errors.
func parseHCL(path string, src []byte) (*hcl.File, diagnostics) {
	file, list := hclsyntax.ParseConfig(src, path, hcl.InitialPos)
	return file, diagnostics{path: path, file: file, list: list}
}

// convert goes through the whole file, whatever is wrong with parts of it, so that every mistake is told at once.
func (c *converter) convert(raw *rawConfig) *config {
	cfg := &config{
		User:         c.name(raw.User, ""),
		StateDir:     c.stateDir(raw.StateDir),
		DrainTimeout: c.duration(raw.DrainTimeout, defaultDrainTimeout, 0),
		LoginTimeout: c.duration(raw.LoginTimeout, defaultLoginTimeout, time.Millisecond),
		Listeners:    c.listeners(raw.Listeners),
	}
	cfg.Clusters, cfg.Passthrough = c.clusters(raw.Clusters)
	c.tls(raw.TLS, cfg)
	cfg.Routes = c.routes(raw.Routes, raw.Clusters)
	cfg.Routes.Zone = c.name(raw.Zone, "")
	cfg.Routes.Access = c.access(raw.Access)
	cfg.Limits = c.limits(raw.Limits)
	c.admin(raw.Admin, cfg)
	c.log(raw.Log, cfg)
	return cfg
}

func (c *converter) log(raw *rawLog, cfg *config) {
	if raw == nil {
		raw = &rawLog{}
	}
	cfg.LogLevel = choice(c, raw.Level, defaultLogLevel, oneOf("a log level", map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}))
	cfg.LogFormat = choice(c, raw.Format, defaultLogFormat, oneOf("a log format", map[string]string{
		"auto": "auto", "text": "text", "json": "json",
	}))
}
