package main

import (
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/certstore"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

var (
	challenge = oneOf("a challenge of ACME", map[string]tlsfront.Challenge{
		"tls-alpn-01": tlsfront.ChallengeTLSALPN, "http-01": tlsfront.ChallengeHTTP, "dns-01": tlsfront.ChallengeDNS,
	})
	keyAlgorithm = oneOf("an algorithm to sign updates with", map[string]string{
		"hmac-sha224": "hmac-sha224", "hmac-sha256": "hmac-sha256", "hmac-sha384": "hmac-sha384", "hmac-sha512": "hmac-sha512",
	})
)

// acme fills in which certificates to obtain from an ACME server.
func (c *converter) acme(raw *rawACME, cfg *config) {
	a := &tlsfront.ACMEConfig{
		Email:              c.name(raw.Email, ""),
		Profile:            c.name(raw.Profile, ""),
		Challenge:          choice(c, raw.Challenge, defaultChallenge, challenge),
		RenewCheckInterval: c.duration(raw.RenewCheckInterval, defaultRenewCheckInterval, time.Second),
	}
	cfg.ACME = a
	a.Dir, a.SharedDir = filepath.Join(cfg.StateDir, "acme"), c.path(c.text(raw.StorageDir, ""))
	c.acmeStorage(raw, cfg)
	c.acmeDomains(raw, a)
	c.acmeServer(raw, a)
	c.challengeAddress(raw, a)
	c.acmeDNS(raw, a)
}

// acmeStorage reads what database proxies share.
func (c *converter) acmeStorage(raw *rawACME, cfg *config) {
	if first, second := firstTwo(raw.StorageDir, raw.StorageDSN); second != nil {
		c.fail(second.Range, "Two places to share", "%s and %s are both set. Remove one of them.", first.Name, second.Name)
	}
	if raw.StorageDSN == nil || !c.secrets {
		return
	}
	dsn := c.text(raw.StorageDSN, "")
	if dsn == "" {
		return
	}
	if _, err := certstore.Open(dsn); err != nil {
		c.fail(raw.StorageDSN.Expr.Range(), "Not a connection string",
			`storage_dsn takes one of libpq, such as "postgresql://user@host/database?sslmode=verify-full"; bring it in by env() or file(), for its password.`)
		return
	}
	cfg.ACMEStorage = hidden(dsn)
}

// acmeDomains reads the names of the certificates.
func (c *converter) acmeDomains(raw *rawACME, a *tlsfront.ACMEConfig) {
	domains := c.words(raw.Domains)
	for _, w := range domains {
		name := strings.ToLower(strings.TrimSuffix(w.text, "."))
		if ip, err := netip.ParseAddr(name); err == nil {
			name = ip.Unmap().String()
		}
		switch {
		case !c.certificateName(w):
		case slices.Contains(a.Domains, name):
			c.fail(w.at, "Domain named twice", "%q has its certificate already. Remove one of them.", w.text)
		case strings.HasPrefix(name, "*.") && a.Challenge != tlsfront.ChallengeDNS:
			c.fail(w.at, "Wildcard without dns-01",
				`ACME servers give certificates for wildcards by the challenge dns-01 only. Write challenge = "dns-01" with a dns block, or the names one by one.`)
		default:
			a.Domains = append(a.Domains, name)
		}
	}
	if raw.Domains == nil {
		c.fail(raw.Def, "Missing argument", `The block needs this line: domains = ["db.example.com"]`)
	} else if len(domains) == 0 {
		c.fail(raw.Domains.Expr.Range(), "No domain", `Name at least one: domains = ["db.example.com"].`)
	}
}

// acmeServer reads whom to ask, and as whom.
func (c *converter) acmeServer(raw *rawACME, a *tlsfront.ACMEConfig) {
	if a.Directory = c.text(raw.Directory, ""); a.Directory != "" {
		if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
			c.fail(raw.Directory.Expr.Range(), "Not a directory of an ACME server",
				`directory takes the URL that the server's operator tells, such as "https://acme.example.com/directory"; got %q.`, a.Directory)
		}
	}
	if path := c.path(c.text(raw.RootFile, "")); path != "" && c.secrets {
		var err error
		if a.Roots, err = rootPool(path); err != nil {
			c.fail(raw.RootFile.Expr.Range(), "Root certificate cannot be used",
				"%s. root_file holds the root certificates, in PEM, of the ACME server's own HTTPS.", sentence(err.Error()))
		}
	}
	if raw.EAB == nil {
		return
	}
	a.EAB = &tlsfront.EAB{KeyID: c.required(raw.EAB.KeyID, raw.EAB.Def, `key_id = "…"`)}
	if raw.EAB.MACKey == nil || c.secrets {
		a.EAB.MACKey = c.required(raw.EAB.MACKey, raw.EAB.Def, `mac_key = file("eab.key")`)
	}
}

// challengeAddress reads where challenges are answered.
func (c *converter) challengeAddress(raw *rawACME, a *tlsfront.ACMEConfig) {
	switch a.Challenge {
	case tlsfront.ChallengeDNS:
		if raw.ChallengeAddress != nil {
			c.fail(raw.ChallengeAddress.Range, "Not used", "The challenge dns-01 asks nothing of this machine. Remove challenge_address.")
		}
		return
	case tlsfront.ChallengeHTTP:
		a.ChallengeAddress = defaultHTTPAddress
	default:
		a.ChallengeAddress = defaultTLSALPNAddress
	}
	l, err := parseListenAddress(c.text(raw.ChallengeAddress, a.ChallengeAddress))
	if err != nil || l.Network != "tcp" {
		c.fail(raw.ChallengeAddress.Expr.Range(), "Not an address to listen on",
			`challenge_address takes "host:port", or ":port" for every interface: what port 443 (tls-alpn-01) or 80 (http-01) of the domains leads to.`)
		return
	}
	a.ChallengeAddress = l.Address
}

// acmeDNS reads how records for dns-01 are made.
func (c *converter) acmeDNS(raw *rawACME, a *tlsfront.ACMEConfig) {
	if a.Challenge != tlsfront.ChallengeDNS {
		if raw.DNS != nil {
			c.fail(raw.DNS.Def, "Not used", `The dns block is for challenge = "dns-01". Write that, or remove the block.`)
		}
		return
	}
	if raw.DNS == nil {
		c.fail(raw.Def, "Missing block", `The challenge dns-01 needs a dns block, with exec = ["/path/to/program"] or server = "ns1.example.com".`)
		return
	}
	d := &tlsfront.DNSSolver{Server: c.dnsAddress(c.text(raw.DNS.Server, ""))}
	a.DNS = d
	for _, w := range c.words(raw.DNS.Exec) {
		d.Exec = append(d.Exec, w.text)
	}
	if len(d.Exec) > 0 {
		d.Exec[0] = c.path(d.Exec[0])
	}
	for _, w := range c.words(raw.DNS.Resolvers) {
		d.Resolvers = append(d.Resolvers, c.dnsAddress(w.text))
	}
	if (len(d.Exec) > 0) == (d.Server != "") {
		c.fail(raw.DNS.Def, "One of two", `The dns block needs either exec = ["/path/to/program"] or server = "ns1.example.com".`)
	}
	c.tsigKey(raw.DNS, d)
}

// tsigKey reads the key that updates are signed with.
func (c *converter) tsigKey(raw *rawDNS, d *tlsfront.DNSSolver) {
	if first, _ := firstTwo(raw.KeyName, raw.KeySecret, raw.KeyAlgorithm); first == nil {
		return
	} else if d.Server == "" {
		c.fail(first.Range, "Not used", "%s signs updates that are sent to server. Remove it, or name the server.", first.Name)
		return
	}
	d.Key = &tlsfront.TSIGKey{
		Name:      c.required(raw.KeyName, raw.Def, `key_name = "acme-update"`),
		Algorithm: choice(c, raw.KeyAlgorithm, defaultKeyAlgorithm, keyAlgorithm),
	}
	if raw.KeySecret == nil || c.secrets {
		d.Key.Secret = c.required(raw.KeySecret, raw.Def, `key_secret = file("tsig.key")`)
	}
}

// dnsAddress adds the port of DNS where there is none.
func (c *converter) dnsAddress(s string) string {
	if _, _, err := net.SplitHostPort(s); err == nil || s == "" {
		return s
	}
	return net.JoinHostPort(strings.Trim(s, "[]"), defaultDNSPort)
}
