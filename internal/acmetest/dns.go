package acmetest

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// The key that dynamic updates have to be signed with.
const (
	TSIGName      = "acme-update."
	TSIGAlgorithm = dns.HmacSHA256
	TSIGSecret    = "c2VjcmV0IG9mIHRoZSB0ZXN0cyBmb3IgdXBkYXRlcw=="
)

// Zone is the one that the DNS server has.
const Zone = "test."

// DNS is a server, over UDP and TCP, for which every host name is 127.0.0.1.
type DNS struct {
	// Address is host:port.
	Address string

	mu      sync.Mutex
	records map[string][]string // texts by name
	updates int
}

func startDNS(t testing.TB) *DNS {
	t.Helper()
	d := &DNS{records: map[string][]string{}}
	tcp, udp := listenBoth(t)
	d.Address = tcp.Addr().String()
	secrets := map[string]string{TSIGName: TSIGSecret}
	for _, server := range []*dns.Server{
		{Listener: tcp, Handler: d, TsigSecret: secrets, MsgAcceptFunc: acceptUpdates},
		{PacketConn: udp, Handler: d, TsigSecret: secrets, MsgAcceptFunc: acceptUpdates},
	} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return d
}

// listenBoth listens on one port over TCP and UDP.
func listenBoth(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	var failed error
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp
		}
		failed = errors.Join(err, tcp.Close())
	}
	t.Fatal(failed)
	return nil, nil
}

// acceptUpdates takes what miekg/dns leaves to servers that want it.
func acceptUpdates(h dns.Header) dns.MsgAcceptAction {
	if opcode := int(h.Bits>>11) & 0xF; opcode == dns.OpcodeUpdate {
		return dns.MsgAccept
	}
	return dns.DefaultMsgAcceptFunc(h)
}

// Updates is how many signed updates were carried out.
func (d *DNS) Updates() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.updates
}

// Set adds a text to a name, or removes it.
func (d *DNS) Set(name, text string, present bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = dns.CanonicalName(name)
	d.records[name] = slices.DeleteFunc(d.records[name], func(s string) bool { return s == text })
	if present {
		d.records[name] = append(d.records[name], text)
	}
}

// Texts are what a name has.
func (d *DNS) Texts(name string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.records[dns.CanonicalName(name)])
}

// ServeDNS answers one message.
func (d *DNS) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	answer := new(dns.Msg)
	answer.SetReply(request)
	answer.Authoritative = true
	if request.Opcode == dns.OpcodeUpdate {
		d.update(w, request, answer)
	} else {
		d.answer(request, answer)
	}
	_ = w.WriteMsg(answer)
}

func (d *DNS) update(w dns.ResponseWriter, request, answer *dns.Msg) {
	signature := request.IsTsig()
	if signature == nil || w.TsigStatus() != nil {
		answer.Rcode = dns.RcodeNotAuth
		return
	}
	answer.SetTsig(signature.Hdr.Name, signature.Algorithm, 300, int64(signature.TimeSigned))
	for _, rr := range request.Ns {
		if text, ok := rr.(*dns.TXT); ok {
			d.Set(rr.Header().Name, strings.Join(text.Txt, ""), rr.Header().Class != dns.ClassNONE)
		}
	}
	d.mu.Lock()
	d.updates++
	d.mu.Unlock()
}

func (d *DNS) answer(request, answer *dns.Msg) {
	for _, q := range request.Question {
		header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 1}
		switch q.Qtype {
		case dns.TypeA:
			answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)})
		case dns.TypeTXT:
			for _, text := range d.Texts(q.Name) {
				answer.Answer = append(answer.Answer, &dns.TXT{Hdr: header, Txt: []string{text}})
			}
		case dns.TypeSOA:
			if dns.CanonicalName(q.Name) == Zone {
				answer.Answer = append(answer.Answer, &dns.SOA{Hdr: header, Ns: "ns." + Zone, Mbox: "root." + Zone, Serial: 1})
			} else {
				answer.Rcode = dns.RcodeNameError
			}
		}
	}
}
