package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/wire"
)

// overTLSLeg are the lines of a cluster block for a leg that is verified against the tests' authority.
func overTLSLeg(t *testing.T) []string { return legs[1].hcl(t) }

// CVE-2021-23222, CVE-2021-43767 (Odyssey): what somebody on the way puts behind the server's answer to SSLRequest must
// never count as the server's own; nor must a word of it reach the client. Without TLS nothing is sent to a server that was
// to have it.
func TestAttackBytesBehindServersAnswer(t *testing.T) {
	const stuffed = "stuffed by somebody on the way"
	for name, answer := range map[string]string{
		"S, then an error":      "S" + errorMessage("28P01", stuffed),
		"S, then a session":     "S" + authOK + readyForQuery + errorMessage("57P01", stuffed),
		"an error instead":      errorMessage("28P01", stuffed),
		"N":                     "N",
		"N, then a session":     "N" + authOK + readyForQuery,
		"neither":               "HTTP/1.1 400 " + stuffed,
		"S, then no handshake":  "S\x15\x03\x01\x00\x02\x02\x28",
		"S, then the end of it": "S",
	} {
		t.Run(name, func(t *testing.T) {
			f := startFakeTLS(t, sharedCluster(t, versions[0]).Servers()[0], welcoming)
			p := serveFake(t, f, overTLSLeg(t)...)
			received := make(chan []byte, 10)
			f.setAmbush(func(conn net.Conn) {
				if _, err := io.ReadFull(conn, make([]byte, len(sslRequest))); err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer)
				if strings.HasPrefix(answer, "S") && len(answer) > 1 {
					_ = tls.Server(conn, f.tls).Handshake()
					return
				}
				_ = conn.(*net.TCPConn).CloseWrite()
				rest, _ := io.ReadAll(conn)
				received <- rest
			})
			c := p.dialTLS(t)
			c.say(asApp("app"))
			told := c.refusal()
			refusal{
				"57P03", `no primary of cluster "main" could be reached`, "Tried: [db1].",
				"Retry in a few seconds; the log of pgreplicaproxy says why.",
			}.check(t, told)
			if f.ambushed.Load() == 0 || f.sessions.Load() != 0 {
				t.Errorf("the server was asked %d times and had %d sessions", f.ambushed.Load(), f.sessions.Load())
			}
			select {
			case rest := <-received:
				if strings.Contains(string(rest), appUser) {
					t.Errorf("the program sent %q in the clear", rest)
				}
			default:
			}
		})
	}
}

// scripted is a client that logs in: it answers what a server asks, and returns all that it was sent until the end.
func (c *rawClient) scripted(database string) []wire.Message {
	c.t.Helper()
	c.say(asApp(database))
	reader := wire.NewReader(c)
	var all []wire.Message
	for {
		m, err := reader.Next(1 << 20)
		if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
			c.t.Fatalf("the program did not close the connection; it sent %q", all)
		}
		if err != nil {
			return all
		}
		m.Body = append([]byte(nil), m.Body...)
		all = append(all, m)
		answer := ""
		if code, _, err := m.Authentication(); err == nil {
			answer = map[wire.AuthCode]string{
				wire.AuthCleartext:    message('p', "secret\x00"),
				wire.AuthSASL:         message('p', "SCRAM-SHA-256\x00"+word(16)+"n,,n=,r=12345678"),
				wire.AuthSASLContinue: message('p', "c=biws,r=12345678xxxxxxxx,p=AAAA"),
			}[code]
		}
		_, _ = io.WriteString(c, answer)
	}
}

// malice is what a server, or somebody in its place, may do in a login, and what the client gets to see of it.
type malice struct {
	play func(s *fakeSession)
	// passed are the types of the messages that reach the client. A last E is an error of the program, with SQLSTATE code; a
	// lower-case e is the server's.
	passed, code string
}

// says is a server that says this and no more.
func says(messages ...string) func(*fakeSession) {
	return func(s *fakeSession) { s.say(messages...); s.hold() }
}

// endsAfter is a server that says this and closes the connection.
func endsAfter(messages ...string) func(*fakeSession) {
	return func(s *fakeSession) { s.say(messages...) }
}

// asks is a server that says each message after an answer to the one before.
func asks(messages ...string) func(*fakeSession) {
	return func(s *fakeSession) {
		for i, m := range messages {
			if i > 0 && s.next().Type == 0 {
				return
			}
			s.say(m)
		}
		s.hold()
	}
}

// internal is the SQLSTATE that a client gets when what happened is not for it to know.
const internal = "XX000"

// loginMalice is what may come before AuthenticationOk. What breaks the first message is told as 57P03: another server, if
// there were one, would be tried.
var loginMalice = map[string]malice{
	// PgBouncer CVE-2026-6665 and others: lengths.
	"2^31-1 iterations":    {asks(askForSCRAM, authRequest(11, "r=12345678xx,s=c2FsdA==,i=2147483647"), errorMessage("28P01", "no")), "RRe", ""},
	"nonce of 1 MB":        {asks(askForSCRAM, authRequest(11, "r="+strings.Repeat("x", 1<<20))), "RE", internal},
	"request of 1 GB":      {asks(askForSCRAM, header('R', 1<<30)+word(11)), "RE", internal},
	"first of 4 GB":        {says(header('R', 1<<32-1) + word(10)), "E", "57P03"},
	"first of length 0":    {says(header('R', 0) + word(10)), "E", "57P03"},
	"first of length 3":    {says(header('R', 3) + word(10)), "E", "57P03"},
	"request without code": {says(message('R', "abc")), "E", internal},
	"request and more":     {says(authRequest(3, authOK)), "E", internal},
	"Ok and more":          {asks(askForSCRAM, authRequest(0, authOK)), "RE", internal},
	"error of 1 MB":        {says(errorMessage("28000", strings.Repeat("x", 1<<20))), "E", "57P03"},

	// CVE-2026-6666: errors that are not quite; they are for the client to make sense of.
	"error without SQLSTATE":   {says(message('E', "SFATAL\x00Mno code\x00\x00")), "e", ""},
	"error without message":    {says(message('E', "SFATAL\x00C28000\x00\x00")), "e", ""},
	"error without end":        {says(message('E', "SFATAL\x00C28000\x00Mno end")), "e", ""},
	"error without anything":   {says(message('E', "")), "e", ""},
	"error with an odd state":  {says(errorMessage("x\x00C28000", "two")), "e", ""},
	"error after a challenge":  {asks(askForSCRAM, errorMessage("28P01", "no")), "Re", ""},
	"error after two of them":  {asks(askForSCRAM, authRequest(11, "r="), errorMessage("28P01", "no")), "RRe", ""},
	"notices before the error": {says(message('N', "SNOTICE\x00\x00"), message('N', "\x00"), errorMessage("28000", "no")), "NNe", ""},

	// GHSA-95fj-3fxw-g62g (pgx), CVE-2025-49146 (pgjdbc): a server that lets the client in without proof of itself.
	"no challenge":               {says(authOK), "E", "28000"},
	"no challenge, ready":        {says(authOK, keyData, readyForQuery), "E", "28000"},
	"Ok after the mechanisms":    {asks(askForSCRAM, authOK+readyForQuery), "RE", internal},
	"Ok after the continuation":  {asks(askForSCRAM, authRequest(11, "r="), authOK+readyForQuery), "RRE", internal},
	"continuation first":         {says(authRequest(11, "r=x")), "E", internal},
	"other method in the middle": {asks(askForSCRAM, authRequest(3, "")), "RE", "28000"},

	// Methods that are no more, that are not yet, or that nobody allowed.
	"code 1":                {says(authRequest(1, "")), "E", internal},
	"code 2 (Kerberos V5)":  {says(authRequest(2, "")), "E", internal},
	"code 4 (crypt)":        {says(authRequest(4, "ab")), "E", internal},
	"code 6 (SCM)":          {says(authRequest(6, "")), "E", internal},
	"code 13":               {says(authRequest(13, "")), "E", internal},
	"code 2^32-1":           {says(authRequest(1<<32-1, "")), "E", internal},
	"password":              {says(authRequest(3, "")), "E", "28000"},
	"md5":                   {says(authRequest(5, "salt")), "E", "28000"},
	"GSSAPI":                {says(authRequest(7, "")), "E", "28000"},
	"GSSAPI, in the middle": {says(authRequest(8, "token")), "E", "28000"},
	"SSPI":                  {says(authRequest(9, "")), "E", "28000"},
	"OAuth":                 {says(authRequest(10, "OAUTHBEARER\x00\x00")), "E", "28000"},
	"unknown mechanism":     {says(authRequest(10, "SCRAM-SHA-1\x00\x00")), "E", "28000"},
	"OAuth beside SCRAM":    {says(authRequest(10, "SCRAM-SHA-256\x00OAUTHBEARER\x00\x00")), "E", "28000"},
	"no mechanism":          {says(authRequest(10, "\x00")), "E", internal},
	"mechanisms, no end":    {says(authRequest(10, "SCRAM-SHA-256")), "E", internal},
	"empty mechanism":       {says(authRequest(10, "\x00SCRAM-SHA-256\x00\x00")), "E", internal},

	// Messages that have no place in a login.
	"ReadyForQuery":   {says(readyForQuery), "E", internal},
	"BackendKeyData":  {says(keyData), "E", internal},
	"DataRow":         {says(message('D', "\x00\x00")), "E", internal},
	"CopyBoth":        {says(message('W', "\x00\x00\x00")), "E", internal},
	"no message":      {says("HTTP/1.1 400 Bad Request\r\n\r\n"), "E", "57P03"},
	"later DataRow":   {asks(askForSCRAM, message('D', "\x00\x00")), "RE", internal},
	"a client's own":  {says(message('p', "secret\x00")), "E", internal},
	"end at once":     {endsAfter(), "E", "57P03"},
	"end in a header": {endsAfter("R\x00\x00"), "E", "57P03"},
	"end in the middle": {func(s *fakeSession) {
		s.say(askForSCRAM)
		s.next()
	}, "RE", "57P03"},
}

// A server that does not keep to the protocol in a login costs the client its session, with an error that is well-formed, and
// the program nothing. Of the server's words only those pass that belong to the login so far.
func TestAttackByServerInLogin(t *testing.T) {
	checkMalice(t, loginMalice)
}

// afterLogin are the same for the part between AuthenticationOk and the first ReadyForQuery, in a cluster that trusts its
// servers, so that no proof is needed to come there. What a server has said at once passes as a whole or not at all. Cancel keys
// that cannot be used are the client's affair.
var afterLogin = map[string]malice{
	"length 0":          {says(authOK, header('S', 0)), "E", internal},
	"length 3":          {says(authOK, header('S', 3)), "E", internal},
	"parameter of 1 GB": {says(authOK, header('S', 1<<30), "a\x00b\x00"), "E", internal},
	"4 GB of anything":  {says(authOK, header('?', 1<<32-1)), "E", internal},
	"no message":        {says(authOK, "HTTP/1.1 400 Bad Request\r\n\r\n"), "E", internal},
	"key of 300 bytes":  {endsAfter(authOK, message('K', strings.Repeat("k", 304)), readyForQuery), "RKZ", ""},
	"key of 0 bytes":    {endsAfter(authOK, message('K', word(42)), readyForQuery), "RKZ", ""},
	"key, half of it":   {endsAfter(authOK, message('K', "\x00"), readyForQuery), "RKZ", ""},
	"key of process 0":  {endsAfter(authOK, message('K', word(0)+"keys"), readyForQuery), "RKZ", ""},
	"another role":      {says(authOK, message('S', "in_hot_standby\x00on\x00"), keyData, readyForQuery), "E", "57P01"},
	"error":             {says(authOK, errorMessage("53300", "full")), "Re", ""},
	"odd error":         {says(authOK, message('E', "")), "Re", ""},
	"end":               {endsAfter(authOK), "RE", internal},
	"end in a header":   {endsAfter(authOK, "S\x00\x00"), "RE", internal},
}

func TestAttackByServerAfterLogin(t *testing.T) {
	checkMalice(t, afterLogin, trustHCL...)
}

func checkMalice(t *testing.T, all map[string]malice, lines ...string) {
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], func(s *fakeSession) { all[s.startup.Database()].play(s) })
	p := serveFake(t, f, lines...)
	resident, virtual := p.memory(t, "VmHWM"), p.memory(t, "VmPeak")
	for name, test := range all {
		t.Run(name, func(t *testing.T) {
			sessions := f.sessions.Load()
			messages := p.dialTLS(t).scripted(name)
			types := ""
			for _, m := range messages {
				types += string(rune(m.Type))
			}
			if want := strings.ToUpper(test.passed); types != want {
				t.Fatalf("the client got %q, want messages %s", messages, want)
			}
			last := messages[len(messages)-1]
			if state, _ := last.SQLState(); strings.HasSuffix(test.passed, "E") && state != test.code {
				t.Errorf("the client got %q, want SQLSTATE %s", last.Body, test.code)
			}
			if strings.HasSuffix(test.passed, "e") && strings.Contains(string(last.Body), "pgreplicaproxy") {
				t.Errorf("the client got %q, want the server's own error", last.Body)
			}
			if f.sessions.Load() != sessions+1 {
				t.Errorf("%d sessions reached the server, want 1", f.sessions.Load()-sessions)
			}
		})
	}
	if resident, virtual = p.memory(t, "VmHWM")-resident, p.memory(t, "VmPeak")-virtual; resident > 200<<20 || virtual > 1<<30 {
		t.Errorf("memory grew by %d MiB, %d MiB virtual", resident>>20, virtual>>20)
	}
}

// Whoever poses as a server cannot know the secret. The proof of that passes through the program, and a driver sees it.
func TestAttackByImpostor(t *testing.T) {
	c := sharedCluster(t, versions[0])
	const salt = ",s=c2FsdHNhbHRzYWx0c2FsdA=="
	zero := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, test := range map[string]struct{ first, final string }{
		"wrong signature":     {"r=%snonce" + salt + ",i=4096", authRequest(12, "v="+zero)},
		"error as signature":  {"r=%snonce" + salt + ",i=4096", authRequest(12, "e=other-error")},
		"empty signature":     {"r=%snonce" + salt + ",i=4096", authRequest(12, "")},
		"nonce of its own":    {"r=nonce%.0s" + salt + ",i=4096", authRequest(12, "v="+zero)},
		"nonce not continued": {"r=%s" + salt + ",i=4096", authRequest(12, "v="+zero)},
		"no iterations":       {"r=%snonce" + salt + ",i=0", authRequest(12, "v="+zero)},
		"odd iterations":      {"r=%snonce" + salt + ",i=-1", authRequest(12, "v="+zero)},
		"no salt":             {"r=%snonce,i=4096", authRequest(12, "v="+zero)},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, c.Servers()[0], func(s *fakeSession) {
				s.say(askForSCRAM)
				_, nonce, _ := strings.Cut(string(s.next().Body), ",r=")
				s.say(authRequest(11, fmt.Sprintf(test.first, nonce)))
				if s.next().Type == 'p' {
					s.say(test.final, authOK, keyData, readyForQuery)
					s.hold()
				}
			})
			p := serveFake(t, f)
			conn, err := pgconn.Connect(testContext(t), p.dsn("app"))
			if err == nil {
				_ = conn.Close(testContext(t))
				t.Fatal("pgx took the impostor for the server")
			}
			if told := (*pgconn.PgError)(nil); errors.As(err, &told) {
				t.Errorf("pgx was refused by %v, want its own judgement", told)
			}
			if _, _, err := psql(t, "", p.dsn("app"), "-c", "SELECT 1"); err == nil {
				t.Error("psql took the impostor for the server")
			}
			if f.sessions.Load() < 2 {
				t.Errorf("%d sessions reached the server, want 2", f.sessions.Load())
			}
		})
	}
}
