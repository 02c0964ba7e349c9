package main

import (
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// What clients may be asked for.
var clientCertificates = oneOf("what clients may be asked for", map[string]bool{"optional": false, "required": true})

// clientCertificates reads which certificates clients may show, nil for none.
func (c *converter) clientCertificates(raw *rawTLS) *tlsfront.ClientCertificateConfig {
	cfg := &tlsfront.ClientCertificateConfig{
		CAFile:   c.path(c.text(raw.ClientCAFile, "")),
		CRLFile:  c.path(c.text(raw.CRLFile, "")),
		Required: choice(c, raw.ClientCertificates, false, clientCertificates),
	}
	for _, r := range raw.ClientMap {
		cfg.Map = append(cfg.Map, c.clientRule(r))
	}
	if raw.ClientCAFile == nil {
		if first, _ := firstTwo(raw.CRLFile, raw.ClientCertificates); first != nil {
			c.fail(first.Range, "Not used", `%s is for certificates of clients, which are asked for with client_ca_file = "clients-ca.crt".`, first.Name)
		} else if len(raw.ClientMap) > 0 {
			c.fail(raw.ClientMap[0].Def, "Not used", `client_map is for certificates of clients, which are asked for with client_ca_file = "clients-ca.crt".`)
		}
		return nil
	}
	if cfg.CAFile == "" {
		return nil
	}
	if _, err := tlsfront.LoadClientCertificates(*cfg); err != nil {
		c.fail(raw.ClientCAFile.Expr.Range(), "Authorities of clients cannot be used",
			"%s. client_ca_file holds their certificates, crl_file their lists of revoked ones, both in PEM.", sentence(err.Error()))
	}
	return cfg
}

// clientRule reads whom a certificate may log in as.
func (c *converter) clientRule(raw *rawClientMap) tlsfront.ClientRule {
	rule := tlsfront.ClientRule{
		CommonName: c.pattern(raw.CommonName), DNSName: c.pattern(raw.DNSName), Email: c.pattern(raw.Email), URI: c.pattern(raw.URI),
		SameUser: c.boolean(raw.SameUser, false),
	}
	for _, w := range c.words(raw.Users) {
		rule.Users = append(rule.Users, w.text)
	}
	if len(rule.Users) == 0 && !rule.SameUser {
		c.fail(rangeOf(raw.Users, raw.Def), "Nobody to log in as", `Say whom the certificate may log in as: users = ["app"], or same_user = true.`)
	}
	return rule
}
