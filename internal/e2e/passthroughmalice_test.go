package e2e

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/internal/scram"
	"github.com/replicon/pgreplicaproxy/wire"
)

// storedSecret is what a server has on file for a role.
func storedSecret(t *testing.T, s *pgcluster.Server, role string) scram.Secret {
	t.Helper()
	text, err := s.QueryString(testContext(t), "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = '"+role+"'")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := scram.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// clientKey is the ClientKey of a password (RFC 5802, section 3).
func clientKey(t *testing.T, password string, secret scram.Secret) scram.Key {
	t.Helper()
	salted, err := pbkdf2.Key(sha256.New, password, secret.Salt, secret.Iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	key := scram.Key(sign(salted, "Client Key"))
	if sha256.Sum256(key[:]) != secret.StoredKey {
		t.Fatalf("the secret is not that of %q", password)
	}
	return key
}

func sign(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// scramClient is a client that speaks SCRAM by hand, so that a test can spoil what it says. The proof fits what is said.
type scramClient struct {
	key       scram.Key
	secret    scram.Secret
	mechanism string
	header    string                           // gs2
	hash      []byte                           // of the certificate, for the header p
	spoil     func(binding string) string      // the value of c=, in base64; nil leaves it
	first     func(header, bare string) string // the first message as it is sent; nil for a right one
	final     func(response string) string     // the last message as it is sent; nil for a right one
}

const clientNonce = "a-nonce-of-the-test"

// answer is what the client says to a request of the server; "" for nothing.
func (c *scramClient) answer(code wire.AuthCode, data []byte) string {
	bare := "n=,r=" + clientNonce
	switch code {
	case wire.AuthSASL:
		if c.first != nil {
			return c.first(c.header, bare)
		}
		return message('p', c.mechanism+"\x00"+word(uint32(len(c.header+bare)))+c.header+bare)
	case wire.AuthSASLContinue:
		if len(data) == 0 {
			return message('p', c.header+bare)
		}
		response := c.respond(bare, string(data))
		if c.final != nil {
			return c.final(response)
		}
		return message('p', response)
	}
	return ""
}

func (c *scramClient) respond(bare, serverFirst string) string {
	input := c.header
	if strings.HasPrefix(c.header, "p") {
		input += string(c.hash)
	}
	binding := base64.StdEncoding.EncodeToString([]byte(input))
	if c.spoil != nil {
		binding = c.spoil(binding)
	}
	nonce, _, _ := strings.Cut(serverFirst, ",")
	withoutProof := "c=" + binding + "," + nonce
	proof := sign(c.secret.StoredKey[:], bare+","+serverFirst+","+withoutProof)
	subtle.XORBytes(proof, proof, c.key[:])
	return withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof)
}

// login sends a startup packet, answers what the program asks until it closes the connection or the session is ready, and
// returns all that the program has sent.
func (c *rawClient) login(user string, answer func(wire.AuthCode, []byte) string) []wire.Message {
	c.t.Helper()
	c.say(startup(protocol3, "user", user, "database", "app"))
	reader := wire.NewReader(c)
	var all []wire.Message
	for {
		m, err := reader.Next(1 << 20)
		if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
			c.t.Fatalf("the program did not go on; it sent %q", all)
		}
		if err != nil {
			return all
		}
		m.Body = append([]byte(nil), m.Body...)
		if all = append(all, m); m.Type == 'Z' {
			return all
		}
		if code, data, err := m.Authentication(); err == nil {
			_, _ = io.WriteString(c, answer(code, data)) // the program may have closed the connection
		}
	}
}

// loginTypes are the types of messages of a login, with what is between AuthenticationOk and ReadyForQuery left out.
func loginTypes(messages []wire.Message) string {
	var types []byte
	for _, m := range messages {
		if m.Type != 'S' && m.Type != 'K' {
			types = append(types, m.Type)
		}
	}
	return string(types)
}

// toldError is the error that ends a login, nil for none.
func toldError(t *testing.T, messages []wire.Message) *pgconn.PgError {
	t.Helper()
	if len(messages) == 0 || messages[len(messages)-1].Type != 'E' {
		return nil
	}
	var response pgproto3.ErrorResponse
	if err := response.Decode(messages[len(messages)-1].Body); err != nil {
		t.Fatal(err)
	}
	return pgconn.ErrorResponseToPgError(&response)
}

// checkLogin compares the messages of a login, "RRRRZ" for one that succeeds, and the SQLSTATE of its error.
func checkLogin(t *testing.T, messages []wire.Message, types, code string) {
	t.Helper()
	got := ""
	if told := toldError(t, messages); told != nil {
		got = told.Code
	}
	if loginTypes(messages) != types || got != code {
		t.Errorf("the program sent %s, SQLSTATE %q; want %s, %q: %q", loginTypes(messages), got, types, code, messages)
	}
}

// frontHash is the channel binding of the certificate that a client was shown.
func (c *rawClient) frontHash() []byte {
	leaf := c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	hash, _ := scram.EndPoint(leaf)
	return hash
}

// Clients that break the rules hear it from the program, and the server hears nothing of them.
func TestPassthroughMaliciousClients(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	f := startFake(t, c.Servers()[0], welcoming)
	p := serveFake(t, f, `authentication = "scram_passthrough"`)
	secret := storedSecret(t, c.Servers()[0], appUser)
	key := clientKey(t, appPassword, secret)
	const plain, plus, bound = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"
	first := func(mechanism string, length uint32, data string) func(string, string) string {
		return func(string, string) string { return message('p', mechanism+"\x00"+word(length)+data) }
	}
	const good = "n,,n=,r=" + clientNonce
	raw := func(s string) func(string, string) string { return func(string, string) string { return s } }
	again := secondStartup("postgres")
	replaced := func(s string) func(string) string { return func(string) string { return s } }
	decoded := func(change func([]byte) []byte) func(string) string {
		return func(binding string) string {
			b, _ := base64.StdEncoding.DecodeString(binding)
			return base64.StdEncoding.EncodeToString(change(b))
		}
	}
	for name, test := range map[string]struct {
		client      scramClient
		types, code string
	}{
		"n":                              {scramClient{mechanism: plain, header: "n,,"}, "RRRRZ", ""},
		"PLUS":                           {scramClient{mechanism: plus, header: bound}, "RRRRZ", ""},
		"y although PLUS was offered":    {scramClient{mechanism: plain, header: "y,,"}, "RE", "28000"},
		"p without PLUS":                 {scramClient{mechanism: plain, header: bound}, "RE", "08P01"},
		"PLUS with n":                    {scramClient{mechanism: plus, header: "n,,"}, "RE", "08P01"},
		"PLUS with y":                    {scramClient{mechanism: plus, header: "y,,"}, "RE", "08P01"},
		"PLUS of another type":           {scramClient{mechanism: plus, header: "p=tls-unique,,"}, "RE", "08P01"},
		"authzid":                        {scramClient{mechanism: plain, header: "n,a=postgres,"}, "RE", "08P01"},
		"mechanism that was not offered": {scramClient{mechanism: "PLAIN", header: "n,,"}, "RE", "08P01"},
		"OAUTHBEARER":                    {scramClient{mechanism: "OAUTHBEARER", header: "n,,"}, "RE", "08P01"},
		"hash of another certificate":    {scramClient{mechanism: plus, header: bound, spoil: decoded(func(b []byte) []byte { b[len(b)-1] ^= 1; return b })}, "RRE", "28000"},
		"truncated hash":                 {scramClient{mechanism: plus, header: bound, spoil: decoded(func(b []byte) []byte { return b[:len(b)-1] })}, "RRE", "28000"},
		"extended hash":                  {scramClient{mechanism: plus, header: bound, spoil: decoded(func(b []byte) []byte { return append(b, 0) })}, "RRE", "28000"},
		"no hash":                        {scramClient{mechanism: plus, header: bound, spoil: decoded(func([]byte) []byte { return []byte(bound) })}, "RRE", "28000"},
		"n, and bound in the end":        {scramClient{mechanism: plain, header: "n,,", spoil: decoded(func([]byte) []byte { return []byte(bound) })}, "RRE", "08P01"},
		"n, and y in the end":            {scramClient{mechanism: plain, header: "n,,", spoil: replaced("eSws")}, "RRE", "08P01"},
		"PLUS, and n in the end":         {scramClient{mechanism: plus, header: bound, spoil: replaced("biws")}, "RRE", "28000"},
		"no first message":               {scramClient{mechanism: plain, header: "n,,", first: first(plain, 1<<32-1, "")}, "RRRRRZ", ""},
		"length -1 with data":            {scramClient{first: first(plain, 1<<32-1, good)}, "RE", "08P01"},
		"length -2":                      {scramClient{first: first(plain, 1<<32-2, "")}, "RE", "08P01"},
		"length 2^31-1":                  {scramClient{first: first(plain, 1<<31-1, good)}, "RE", "08P01"},
		"length one less":                {scramClient{first: first(plain, uint32(len(good))-1, good)}, "RE", "08P01"},
		"length one more":                {scramClient{first: first(plain, uint32(len(good))+1, good)}, "RE", "08P01"},
		"length 0":                       {scramClient{first: first(plain, 0, "")}, "RE", "08P01"},
		"header of 1 GB":                 {scramClient{first: raw(header('p', 1<<30) + plain)}, "RE", "08P01"},
		"header of length 3":             {scramClient{first: raw(header('p', 3))}, "RE", "08P01"},
		"first of 64 kB":                 {scramClient{first: raw(message('p', strings.Repeat("x", 1<<16)))}, "RE", "08P01"},
		"no end of the name":             {scramClient{first: raw(message('p', plain))}, "RE", "08P01"},
		"empty":                          {scramClient{first: raw(message('p', ""))}, "RE", "08P01"},
		"query in place of the first":    {scramClient{first: raw(message('Q', "SELECT 1\x00"))}, "RE", "08P01"},
		"goodbye":                        {scramClient{first: raw(message('X', ""))}, "RE", "08P01"},
		"startup again, not the first":   {scramClient{first: raw(again)}, "RE", "08P01"}, // PgBouncer CVE-2026-107350
		"startup again, not the last":    {scramClient{mechanism: plain, header: "n,,", final: func(string) string { return again }}, "RRE", "08P01"},
		"password in place of the first": {scramClient{first: raw(message('p', appPassword+"\x00"))}, "RE", "08P01"},
		"query in place of the last":     {scramClient{mechanism: plain, header: "n,,", final: func(string) string { return message('Q', "SELECT 1\x00") }}, "RRE", "08P01"},
		"last of 1 GB":                   {scramClient{mechanism: plain, header: "n,,", final: func(string) string { return header('p', 1<<30) }}, "RRE", "08P01"},
		"last twice":                     {scramClient{mechanism: plain, header: "n,,", final: func(s string) string { return message('p', s+","+s) }}, "RRE", "08P01"},
		"last without proof":             {scramClient{mechanism: plain, header: "n,,", final: func(s string) string { s, _, _ = strings.Cut(s, ",p="); return message('p', s) }}, "RRE", "08P01"},
		"proof of zeros": {scramClient{mechanism: plain, header: "n,,", final: func(s string) string {
			s, _, _ = strings.Cut(s, ",p=")
			return message('p', s+",p="+strings.Repeat("A", 43)+"=")
		}}, "RRE", "28P01"},
		"proof of another server's nonce": {scramClient{mechanism: plain, header: "n,,", final: func(s string) string { return message('p', strings.Replace(s, clientNonce, clientNonce+"x", 1)) }}, "RRE", "08P01"},
	} {
		t.Run(name, func(t *testing.T) {
			before := f.sessions.Load()
			conn := p.dialTLS(t)
			test.client.key, test.client.secret, test.client.hash = key, secret, conn.frontHash()
			checkLogin(t, conn.login(appUser, test.client.answer), test.types, test.code)
			if reached := f.sessions.Load() > before; reached != (test.code == "") {
				t.Errorf("the server was reached: %t", reached)
			}
		})
	}
	if log := p.log(); strings.Contains(log, base64.StdEncoding.EncodeToString(key[:])) {
		t.Error("the log shows the ClientKey")
	}
}

// passthroughFake is a server with a role's true secret, to be misused.
type passthroughFake struct {
	*fakeSession
	exchange *scram.Server
	offer    string // the list of mechanisms
}

// begin goes through an honest exchange up to the server's first message, which is returned unsent.
func (s passthroughFake) begin() string {
	s.say(authRequest(10, s.offer))
	choice, _ := wire.ParseSASLInitialResponse(s.next().Body)
	challenge, _ := s.exchange.First(choice.Mechanism, choice.Data)
	return string(challenge)
}

// proof takes the client's last message; its answer, "v=" and the signature, is empty for a client that has failed.
func (s passthroughFake) proof() string {
	_, _ = s.exchange.Final(s.next().Body)
	return string(s.exchange.ServerFinal())
}

// honest lets the client in if it is right.
func (s passthroughFake) honest() {
	s.say(authRequest(11, s.begin()))
	verifier := s.proof()
	if verifier == "" {
		s.say(errorMessage("28P01", "the proof is wrong"))
		return
	}
	s.say(authRequest(12, verifier), authOK, keyData, readyForQuery)
	s.hold()
}

// told says something in place of the server's first message.
func instead(change func(challenge string) string) func(passthroughFake) {
	return func(s passthroughFake) { s.say(change(s.begin())); s.hold() }
}

// verdict says something in place of the server's last message.
func verdict(change func(verifier string) string) func(passthroughFake) {
	return func(s passthroughFake) {
		s.say(authRequest(11, s.begin()))
		s.say(change(s.proof()))
		s.hold()
	}
}

// leave lets the client in, says one thing more, and hangs up.
func leave(last string) func(passthroughFake) {
	return func(s passthroughFake) {
		s.say(authRequest(11, s.begin()))
		s.say(authRequest(12, s.proof()), authOK, keyData, last)
	}
}

// attribute replaces the value of an attribute of the server's first message.
func attribute(name, value string) func(passthroughFake) {
	return instead(func(challenge string) string {
		fields := strings.Split(challenge, ",")
		for i, field := range fields {
			if strings.HasPrefix(field, name+"=") {
				fields[i] = name + "=" + value
			}
		}
		return authRequest(11, strings.Join(fields, ","))
	})
}

// A server that breaks the rules, or somebody in its place, gets neither the client to believe in it nor more than one proof
// from the program. The client was told no more than what a login needs: its first two messages. The next login succeeds.
func TestPassthroughMaliciousServers(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	secret := storedSecret(t, c.Servers()[0], appUser)
	key := clientKey(t, appPassword, secret)
	for leg, start := range map[string]func(*testing.T, *pgcluster.Server, func(*fakeSession)) *fakeServer{
		"plain leg": startFake, "TLS leg": startFakeTLS,
	} {
		var script atomic.Pointer[func(passthroughFake)]
		var f *fakeServer
		f = start(t, c.Servers()[0], func(s *fakeSession) {
			fake := passthroughFake{s, scram.NewServer(secret, false, nil), "SCRAM-SHA-256\x00\x00"}
			if f.tls != nil {
				leaf, _ := x509.ParseCertificate(f.tls.Certificates[0].Certificate[0])
				hash, _ := scram.EndPoint(leaf)
				fake.exchange, fake.offer = scram.NewServer(secret, false, hash), "SCRAM-SHA-256-PLUS\x00SCRAM-SHA-256\x00\x00"
			}
			(*script.Load())(fake)
		})
		lines := []string{`authentication = "scram_passthrough"`}
		if f.tls != nil {
			lines = append(lines, "backend_tls {", "  root_file = \""+tempFile(t, "root.crt", authority().rootPEM())+"\"", "}")
		}
		p := serveFake(t, f, lines...)
		login := func(t *testing.T) []wire.Message {
			t.Helper()
			conn := p.dialTLS(t)
			client := scramClient{key: key, secret: secret, mechanism: "SCRAM-SHA-256-PLUS", header: "p=tls-server-end-point,,", hash: conn.frontHash()}
			return conn.login(appUser, client.answer)
		}
		honest := passthroughFake.honest
		huge := strings.Repeat("x", 1<<20)
		for name, test := range map[string]struct {
			play        func(passthroughFake)
			types, code string
		}{
			"honest":                         {honest, "RRRRZ", ""},
			"nonce that is not ours":         {attribute("r", "abcdefghijklmnopqrstuvwxyz"), "RRE", internal},
			"nonce of 1 MB":                  {attribute("r", huge), "RRE", internal},
			"salt of 1 MB":                   {attribute("s", strings.Repeat("YWFh", 1<<18)), "RRE", internal},
			"i=0":                            {attribute("i", "0"), "RRE", internal},
			"i=-1":                           {attribute("i", "-1"), "RRE", internal},
			"i=2^32+4096":                    {attribute("i", "4294971392"), "RRE", internal},
			"another count":                  {attribute("i", "1"), "RRE", "57P03"},
			"another salt":                   {attribute("s", "MDEyMzQ1Njc4OWFiY2RlZg=="), "RRE", "57P03"},
			"mandatory extension":            {instead(func(s string) string { return authRequest(11, s+",m=x") }), "RRE", internal},
			"empty challenge":                {instead(func(string) string { return authRequest(11, "") }), "RRE", internal},
			"final in place of the first":    {instead(func(string) string { return authRequest(12, "v="+strings.Repeat("A", 43)+"=") }), "RRE", internal},
			"Ok after our first message":     {instead(func(string) string { return authOK + keyData + readyForQuery }), "RRE", internal},
			"Ok after our proof":             {verdict(func(string) string { return authOK + keyData + readyForQuery }), "RRE", internal},
			"wrong signature":                {verdict(func(string) string { return authRequest(12, "v="+strings.Repeat("A", 43)+"=") + authOK }), "RRE", internal},
			"truncated signature":            {verdict(func(v string) string { return authRequest(12, v[:len(v)-4]) + authOK }), "RRE", internal},
			"error in place of a signature":  {verdict(func(string) string { return authRequest(12, "e=invalid-proof") + authOK }), "RRE", internal},
			"signature of 1 MB":              {verdict(func(string) string { return authRequest(12, "v="+huge) }), "RRE", internal},
			"another challenge":              {verdict(func(string) string { return authRequest(11, "r=x,s=YWFh,i=1") }), "RRE", internal},
			"signature, then another demand": {verdict(func(v string) string { return authRequest(12, v) + authRequest(3, "") }), "RRE", "28000"},
			"no Ok":                          {verdict(func(v string) string { return authRequest(12, v) + readyForQuery }), "RRE", internal},
			"refusal":                        {verdict(func(string) string { return errorMessage("28P01", "not you") }), "RRE", "28P01"},
			"stops after its Ok":             {leave(errorMessage("57P01", "terminating connection")), "RRE", "57P03"},
			"hangs up after its Ok":          {leave(""), "RRE", "57P03"},
			"refusal after its Ok":           {leave(errorMessage("3D000", "no such database")), "RRRRE", "3D000"},
			"asks for MD5":                   {func(s passthroughFake) { s.say(authRequest(5, "salt")); s.hold() }, "RRE", "28000"},
			"asks for the password":          {func(s passthroughFake) { s.say(authRequest(3, "")); s.hold() }, "RRE", "28000"},
			"asks for GSS":                   {func(s passthroughFake) { s.say(authRequest(7, "")); s.hold() }, "RRE", "28000"},
			"MD5 in the middle":              {instead(func(string) string { return authRequest(5, "salt") }), "RRE", "28000"},
			"password in the middle":         {instead(func(string) string { return authRequest(3, "") }), "RRE", "28000"},
			"list of mechanisms twice":       {instead(func(string) string { return askForSCRAM }), "RRE", internal},
			"list without SCRAM":             {func(s passthroughFake) { s.say(authRequest(10, "PLAIN\x00OAUTHBEARER\x00\x00")); s.hold() }, "RRE", "28000"},
			"list of nothing":                {func(s passthroughFake) { s.say(authRequest(10, "\x00")); s.hold() }, "RRE", internal},
			"continues what it did not ask":  {func(s passthroughFake) { s.say(authRequest(11, "r=x,s=YWFh,i=1")); s.hold() }, "RRE", internal},
			"begins with the end":            {func(s passthroughFake) { s.say(authRequest(12, "v=x")); s.hold() }, "RRE", internal},
			"code of nothing":                {func(s passthroughFake) { s.say(authRequest(99, "")); s.hold() }, "RRE", internal},
			"hangs up":                       {instead(func(string) string { return "" }), "RRE", "57P03"},
		} {
			t.Run(leg+"/"+name, func(t *testing.T) {
				play := test.play
				if name == "hangs up" {
					play = func(s passthroughFake) { _ = s.begin() }
				}
				script.Store(&play)
				checkLogin(t, login(t), test.types, test.code)
				script.Store(&honest)
				checkLogin(t, login(t), "RRRRZ", "")
			})
		}
		t.Run(leg+"/bound to the server's certificate", func(t *testing.T) {
			chosen := make(chan string, 1)
			play := func(s passthroughFake) {
				s.say(authRequest(10, s.offer))
				choice, _ := wire.ParseSASLInitialResponse(s.next().Body)
				gs2, _, _ := strings.Cut(string(choice.Data), ",")
				chosen <- choice.Mechanism + " " + gs2
			}
			script.Store(&play)
			_ = login(t)
			want := map[bool]string{false: "SCRAM-SHA-256 n", true: "SCRAM-SHA-256-PLUS p=tls-server-end-point"}[f.tls != nil]
			if got := <-chosen; got != want {
				t.Errorf("the program chose %q, want %q", got, want)
			}
		})
		if log := p.log(); strings.Contains(log, base64.StdEncoding.EncodeToString(key[:])) {
			t.Error("the log shows the ClientKey")
		}
	}
}

// A server that stops after it has let the program in, and before it is ready, is left for the next one: the client has heard of
// neither.
func TestPassthroughServerStops(t *testing.T) {
	c := sharedCluster(t, versions[0])
	installSecretFunction(t, c)
	secret := storedSecret(t, c.Servers()[0], appUser)
	for name, last := range map[string]string{
		"stops": errorMessage("57P01", "terminating connection"), "crashes": errorMessage("57P02", "crash"), "is gone": "",
		"is a standby by now": message('S', "in_hot_standby\x00on\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			var stopped atomic.Bool
			f := startFake(t, c.Servers()[0], func(s *fakeSession) {
				fake := passthroughFake{s, scram.NewServer(secret, false, nil), "SCRAM-SHA-256\x00\x00"}
				if stopped.Swap(true) {
					fake.honest()
				} else {
					leave(last)(fake)
				}
			})
			p := serveFake(t, f, `authentication = "scram_passthrough"`, `hold_primary = "60s"`)
			conn := p.dialTLS(t)
			client := scramClient{
				key: clientKey(t, appPassword, secret), secret: secret, mechanism: "SCRAM-SHA-256-PLUS", header: "p=tls-server-end-point,,", hash: conn.frontHash(),
			}
			checkLogin(t, conn.login(appUser, client.answer), "RRRRZ", "")
			if n := f.sessions.Load(); n != 2 {
				t.Errorf("%d logins to the server, want 2", n)
			}
		})
	}
}
