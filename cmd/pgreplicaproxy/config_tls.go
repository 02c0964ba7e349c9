package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

var (
	tlsVersion = oneOf("a version of TLS this program serves", map[string]uint16{
		"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
	})
	hostName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*$`)
)

// tls fills in what clients see of the proxy.
func (c *converter) tls(raw *rawTLS, cfg *config) {
	if raw == nil {
		raw = &rawTLS{}
	}
	cfg.MinVersion = choice(c, raw.MinVersion, defaultMinVersion, tlsVersion)
	for _, r := range raw.Certificates {
		if pair, ok := c.certificate(r); ok {
			cfg.Certificates = append(cfg.Certificates, pair)
		}
	}
	if raw.ACME != nil {
		c.acme(raw.ACME, cfg)
	}
	cfg.ClientCertificates = c.clientCertificates(raw)
	for _, w := range c.words(raw.Names) {
		if c.certificateName(w) {
			cfg.Names = append(cfg.Names, w.text)
		}
	}
	switch {
	case raw.Names == nil:
	case len(raw.Certificates) > 0:
		c.fail(raw.Names.Range, "Names beside a certificate",
			"names are for the local CA's certificate, which the certificate block on line %d replaces. Remove names, or the certificate blocks.",
			raw.Certificates[0].Def.Start.Line)
	case raw.ACME != nil:
		c.fail(raw.Names.Range, "Names beside a certificate",
			"names are for the local CA's certificate, which the acme block on line %d replaces. Write them as its domains, or remove one of the two.",
			raw.ACME.Def.Start.Line)
	}
}

// certificateName is false for a word that no certificate can be for, which is then reported.
func (c *converter) certificateName(w word) bool {
	if _, err := netip.ParseAddr(w.text); err != nil && !hostName.MatchString(w.text) {
		c.fail(w.at, "Not a name for a certificate", `%q is neither a host name, such as "db.example.com", nor an IP address.`, w.text)
		return false
	}
	return true
}

// certificate is false when the block was wrong, and reported.
func (c *converter) certificate(raw *rawCertificate) (tlsfront.CertificateFile, bool) {
	pair := tlsfront.CertificateFile{
		CertFile: c.path(c.required(raw.CertFile, raw.Def, `cert_file = "server.crt"`)),
		KeyFile:  c.path(c.required(raw.KeyFile, raw.Def, `key_file = "server.key"`)),
	}
	if pair.CertFile == "" || pair.KeyFile == "" {
		return pair, false
	}
	if !c.secrets {
		return pair, true
	}
	warnings, err := tlsfront.CheckCertificateFile(pair)
	if err != nil {
		c.fail(raw.CertFile.Expr.Range(), "Certificate cannot be used",
			"%s. cert_file holds the certificate and its chain, key_file its private key, both in PEM.", sentence(err.Error()))
		return pair, false
	}
	for _, w := range warnings {
		c.warn(raw.CertFile.Expr.Range(), "Doubtful certificate", "%s.", sentence(w))
	}
	return pair, true
}

// required is text for an argument that has no default; example shows how to write it.
func (c *converter) required(a *hcl.Attribute, block hcl.Range, example string) string {
	if a == nil {
		c.fail(block, "Missing argument", "The block needs this line: %s", example)
		return ""
	}
	return c.text(a, "")
}

// rootPool reads the certificates of a PEM file, all of which have to be readable.
func rootPool(path string) (*x509.CertPool, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool, found := x509.NewCertPool(), false
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		pool.AddCert(cert)
		found = true
	}
	if !found {
		return nil, fmt.Errorf("%s: %w", path, errors.New("no PEM certificate in it"))
	}
	return pool, nil
}
