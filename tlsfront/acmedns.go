package tlsfront

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"
	"github.com/mholt/acmez/v3"
	"github.com/miekg/dns"
)

// DNSSolver answers the challenge dns-01 with a TXT record, which it has made and removed in one of two ways: Exec or Server.
type DNSSolver struct {
	// Exec is a program with its arguments, run without a shell. It finds what to do in its environment: ACME_ACTION is
	// "present" or "cleanup", ACME_FQDN the record's full name with its final dot, ACME_VALUE the record's text. It has a minute,
	// and exit code 0 means done.
	Exec []string
	// Server is the address, host:port, of the zone's primary server, which takes dynamic updates (RFC 2136), signed with Key
	// where that is not nil.
	Server string
	Key    *TSIGKey
	// Resolvers are addresses of servers that are asked for the zone and whether the record is there; nil are the system's, and
	// then the zone's own servers for the record. Two minutes are waited for the record.
	Resolvers []string
}

// TSIGKey signs dynamic updates (RFC 8945). It prints without its secret, whatever prints it.
type TSIGKey struct {
	Name      string
	Algorithm string // such as "hmac-sha256"
	Secret    string `json:"-"` // base64
}

// Format writes the key's name for every verb. It makes TSIGKey a fmt.Formatter.
func (k TSIGKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.Name) }

// LogValue returns the key's name.
func (k TSIGKey) LogValue() slog.Value { return slog.StringValue(k.Name) }

const (
	dnsTTL      = time.Minute
	execTimeout = time.Minute
	dnsTimeout  = 10 * time.Second
)

func (s *DNSSolver) solver() acmez.Solver {
	return &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
		DNSProvider: dnsProvider{s}, TTL: dnsTTL, Resolvers: s.Resolvers,
	}}
}

// dnsProvider is a DNSSolver in the terms of libdns.
type dnsProvider struct{ *DNSSolver }

func (p dnsProvider) AppendRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.each(ctx, "present", zone, records)
}

func (p dnsProvider) DeleteRecords(ctx context.Context, zone string, records []libdns.Record) ([]libdns.Record, error) {
	return records, p.each(ctx, "cleanup", zone, records)
}

func (p dnsProvider) each(ctx context.Context, action, zone string, records []libdns.Record) error {
	for _, record := range records {
		rr := record.RR()
		var err error
		if fqdn := libdns.AbsoluteName(rr.Name, zone); len(p.Exec) > 0 {
			err = p.run(ctx, action, fqdn, rr.Data)
		} else {
			err = p.update(ctx, action, zone, fqdn, rr.Data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run runs the program.
func (p dnsProvider) run(ctx context.Context, action, fqdn, value string) error {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Exec[0], p.Exec[1:]...)
	cmd.Env = append(os.Environ(), "ACME_ACTION="+action, "ACME_FQDN="+fqdn, "ACME_VALUE="+value)
	cmd.WaitDelay = time.Second // for what it left running with its output open
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(output.String())
		return fmt.Errorf("run %s to %s %s: %w: %s", p.Exec[0], action, fqdn, errors.Join(ctx.Err(), err), text[:min(len(text), 500)])
	}
	return nil
}

// update sends one dynamic update.
func (p dnsProvider) update(ctx context.Context, action, zone, fqdn, value string) error {
	record := &dns.TXT{
		Hdr: dns.RR_Header{Name: fqdn, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(dnsTTL / time.Second)},
		Txt: []string{value},
	}
	message := new(dns.Msg)
	message.SetUpdate(dns.Fqdn(zone))
	if action == "present" {
		message.Insert([]dns.RR{record})
	} else {
		message.Remove([]dns.RR{record})
	}
	client := dns.Client{Net: "tcp", Timeout: dnsTimeout}
	if key := p.Key; key != nil {
		name := dns.CanonicalName(key.Name)
		client.TsigSecret = map[string]string{name: key.Secret}
		message.SetTsig(name, dns.Fqdn(key.Algorithm), 300, time.Now().Unix())
	}
	answer, _, err := client.ExchangeContext(ctx, message, p.Server)
	if err == nil && answer.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("refused with %s", dns.RcodeToString[answer.Rcode])
	}
	if err != nil {
		return fmt.Errorf("dynamic update of %s at %s: %w", fqdn, p.Server, err)
	}
	return nil
}
