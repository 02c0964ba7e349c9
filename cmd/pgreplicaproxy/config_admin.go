package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// adminConfig is where and how the admin listener listens.
type adminConfig struct {
	Listen listenerConfig
	// Unasked is true for the socket that there is without an admin block: the program runs as well where it cannot be made.
	Unasked bool
	// Token is what changes are allowed by; empty is one that is kept in StateDir.
	Token hidden
	// Certificate is what the listener shows on a network address; its files are empty for the front's.
	Certificate tlsfront.CertificateFile
	// ClientCAs are who issues certificates for those who may read; nil is nobody.
	ClientCAs *x509.CertPool
	// Pprof serves Go's profiles.
	Pprof bool
}

// hidden is a string that nobody prints.
type hidden string

// Format keeps the text out of every fmt verb.
func (hidden) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "(secret)") }

// LogValue keeps it out of logs.
func (hidden) LogValue() slog.Value { return slog.StringValue("(secret)") }

// MarshalText keeps it out of JSON.
func (hidden) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// leastToken is how long a token is at least: what a machine makes at random, and nothing that a person thinks of.
const leastToken = 16

// admin reads where the admin listener listens. Without the block it is a socket in the state directory, for the commands.
func (c *converter) admin(raw *rawAdmin, cfg *config) {
	if raw == nil {
		cfg.Admin.Unasked = true
		cfg.Admin.Listen = listenerConfig{Network: "unix", Address: filepath.Join(cfg.StateDir, "admin.sock"), Private: true}
		return
	}
	l, err := parseListenAddress(c.text(raw.Address, defaultAdminAddress))
	if err != nil {
		c.fail(rangeOf(raw.Address, raw.Def), "Not an address to listen on",
			`%v. Write "127.0.0.1:port", or the absolute path of a socket file.`, err)
	}
	l.Private = true
	cfg.Admin.Listen = l
	cfg.Admin.Pprof = c.boolean(raw.Pprof, false)
	cfg.Admin.Token = c.token(raw)
	if l.local() {
		c.onlyOnNetwork(raw)
		return
	}
	if raw.Token == nil && raw.ClientCAFile == nil {
		c.fail(rangeOf(raw.Address, raw.Def), "Admin listener on a network address",
			`%q can be reached from elsewhere, and nothing says who may. Write client_ca_file = "admin-ca.crt" for client certificates, or `+
				`token = env("PGREPLICAPROXY_ADMIN_TOKEN") for a bearer token; or listen on "127.0.0.1:port".`, l.Address)
	}
	if raw.CertFile != nil || raw.KeyFile != nil {
		cfg.Admin.Certificate, _ = c.certificate(&rawCertificate{Def: raw.Def, CertFile: raw.CertFile, KeyFile: raw.KeyFile})
	}
	if file := c.path(c.text(raw.ClientCAFile, "")); file != "" && c.secrets {
		if cfg.Admin.ClientCAs, err = rootPool(file); err != nil {
			c.fail(raw.ClientCAFile.Expr.Range(), "CA cannot be used", "%s.", sentence(err.Error()))
		}
	}
}

// onlyOnNetwork wants arguments that mean nothing to a local listener left out, lest somebody trust in them.
func (c *converter) onlyOnNetwork(raw *rawAdmin) {
	for _, a := range []*hcl.Attribute{raw.CertFile, raw.KeyFile, raw.ClientCAFile} {
		if a != nil {
			c.fail(a.Range, "TLS on a local listener",
				"A listener on loopback or a unix socket has no TLS, so %s does nothing. Remove the line.", a.Name)
		}
	}
}

// token reads the token where secrets are wanted.
func (c *converter) token(raw *rawAdmin) hidden {
	if raw.Token == nil || !c.secrets && !c.adminToken {
		return ""
	}
	token := c.secret(raw.Token, "PGREPLICAPROXY_ADMIN_TOKEN")
	if token != "" && len(token) < leastToken {
		c.fail(raw.Token.NameRange, "Token too short",
			"A token has %d characters at least, made at random: openssl rand -hex 16.", leastToken)
	}
	return hidden(token)
}
