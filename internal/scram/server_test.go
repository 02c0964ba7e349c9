package scram

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
)

const plus = "p=tls-server-end-point,,n=,r=abc"

// TestFirst goes through what a client may and may not open with.
func TestFirst(t *testing.T) {
	offered := frontHash
	for _, c := range []struct {
		name, mechanism string
		binding         []byte
		data            string
		want            error
	}{
		{"n", mechanismPlain, nil, "n,,n=,r=abc", nil},
		{"n while PLUS is offered", mechanismPlain, offered, "n,,n=,r=abc", nil},
		{"y while PLUS is not offered", mechanismPlain, nil, "y,,n=,r=abc", nil},
		{"p with PLUS", mechanismPlus, offered, plus, nil},
		{"user name is ignored", mechanismPlain, nil, "n,,n=\xff=2Cb o=b,r=abc", nil},
		{"extension behind the nonce", mechanismPlain, nil, "n,,n=,r=abc,x=1,Y==", nil},
		{"nonce of all printable characters", mechanismPlain, nil, "n,,n=,r=!\"#$%&'()*+-./09:;<=>?@AZ[\\]^_`az{|}~", nil},
		{"1024 bytes", mechanismPlain, nil, "n,,n=,r=" + strings.Repeat("a", 1016), nil},

		{"y while PLUS is offered", mechanismPlain, offered, "y,,n=,r=abc", ErrNegotiation},

		{"unknown mechanism", "SCRAM-SHA-512", offered, "n,,n=,r=abc", ErrProtocol},
		{"mechanism in lower case", "scram-sha-256", offered, "n,,n=,r=abc", ErrProtocol},
		{"no mechanism", "", offered, "n,,n=,r=abc", ErrProtocol},
		{"PLUS that was not offered", mechanismPlus, nil, plus, ErrProtocol},
		{"PLUS with n", mechanismPlus, offered, "n,,n=,r=abc", ErrProtocol},
		{"PLUS with y", mechanismPlus, offered, "y,,n=,r=abc", ErrProtocol},
		{"PLUS with tls-unique", mechanismPlus, offered, "p=tls-unique,,n=,r=abc", ErrProtocol},
		{"PLUS with tls-exporter", mechanismPlus, offered, "p=tls-exporter,,n=,r=abc", ErrProtocol},
		{"PLUS with a longer name", mechanismPlus, offered, "p=tls-server-end-point2,,n=,r=abc", ErrProtocol},
		{"PLUS with no name", mechanismPlus, offered, "p=,,n=,r=abc", ErrProtocol},
		{"PLUS with bare p", mechanismPlus, offered, "p,,n=,r=abc", ErrProtocol},
		{"p without PLUS", mechanismPlain, offered, plus, ErrProtocol},
		{"p without PLUS, not offered", mechanismPlain, nil, plus, ErrProtocol},
		{"unknown flag", mechanismPlain, nil, "z,,n=,r=abc", ErrProtocol},
		{"upper-case flag", mechanismPlain, nil, "N,,n=,r=abc", ErrProtocol},
		{"long flag", mechanismPlain, nil, "no,,n=,r=abc", ErrProtocol},
		{"no flag", mechanismPlain, nil, ",,n=,r=abc", ErrProtocol},
		{"authorization identity", mechanismPlain, nil, "n,a=postgres,n=,r=abc", ErrProtocol},
		{"empty authorization identity", mechanismPlain, nil, "n,a=,n=,r=abc", ErrProtocol},
		{"something for an authorization identity", mechanismPlain, nil, "n,x,n=,r=abc", ErrProtocol},
		{"mandatory extension", mechanismPlain, nil, "n,,m=x,n=,r=abc", ErrProtocol},
		{"mandatory extension in the middle", mechanismPlain, nil, "n,,n=,m=x,r=abc", ErrProtocol},
		{"mandatory extension at the end", mechanismPlain, nil, "n,,n=,r=abc,m=x", ErrProtocol},
		{"no user name", mechanismPlain, nil, "n,,r=abc", ErrProtocol},
		{"no nonce", mechanismPlain, nil, "n,,n=", ErrProtocol},
		{"nonce before user name", mechanismPlain, nil, "n,,r=abc,n=", ErrProtocol},
		{"empty nonce", mechanismPlain, nil, "n,,n=,r=", ErrProtocol},
		{"nonce with a space", mechanismPlain, nil, "n,,n=,r=a c", ErrProtocol},
		{"nonce with a control character", mechanismPlain, nil, "n,,n=,r=a\x1fc", ErrProtocol},
		{"nonce with DEL", mechanismPlain, nil, "n,,n=,r=a\x7fc", ErrProtocol},
		{"nonce beyond ASCII", mechanismPlain, nil, "n,,n=,r=aéc", ErrProtocol},
		{"nonce with NUL", mechanismPlain, nil, "n,,n=,r=a\x00c", ErrProtocol},
		{"user name with NUL", mechanismPlain, nil, "n,,n=a\x00,r=abc", ErrProtocol},
		{"NUL at the end", mechanismPlain, nil, "n,,n=,r=abc\x00", ErrProtocol},
		{"comma at the end", mechanismPlain, nil, "n,,n=,r=abc,", ErrProtocol},
		{"extension without a value", mechanismPlain, nil, "n,,n=,r=abc,x", ErrProtocol},
		{"extension with a digit for a name", mechanismPlain, nil, "n,,n=,r=abc,1=x", ErrProtocol},
		{"gs2 header only", mechanismPlain, nil, "n,,", ErrProtocol},
		{"half a gs2 header", mechanismPlain, nil, "n,", ErrProtocol},
		{"flag only", mechanismPlain, nil, "n", ErrProtocol},
		{"empty", mechanismPlain, nil, "", ErrProtocol},
		{"1025 bytes", mechanismPlain, nil, "n,,n=,r=" + strings.Repeat("a", 1017), ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := NewServer(NewSecret("pencil", salt, 1), false, c.binding)
			challenge, err := server.First(c.mechanism, []byte(c.data))
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				if challenge != nil {
					t.Errorf("got challenge %q beside the error", challenge)
				}
				return
			}
			_, after, _ := strings.Cut(c.data, "r=")
			nonce, _, _ := strings.Cut(after, ",")
			want := "r=" + nonce + string(server.nonce) + ",s=" + base64.StdEncoding.EncodeToString(salt) + ",i=1"
			if string(challenge) != want {
				t.Errorf("got challenge %q, want %q", challenge, want)
			}
		})
	}
}

// TestNoInitialResponse: a client may leave the data to the answer to an empty challenge, once.
func TestNoInitialResponse(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	server, client := NewServer(secret, false, frontHash), NewClient(key, secret, frontHash)
	if challenge, err := server.First(mechanismPlus, nil); err != nil || challenge == nil || len(challenge) > 0 {
		t.Fatalf("got %q, %v, want an empty challenge", challenge, err)
	}
	if _, err := server.Final([]byte("c=biws")); !errors.Is(err, errOrder) {
		t.Errorf("Final: got %v, want %v", err, errOrder)
	}
	if _, err := server.Final(challenged(t, server, client)); err != nil {
		t.Errorf("Final: %v", err)
	}

	server = NewServer(secret, false, frontHash)
	if challenge, err := server.First("PLAIN", nil); challenge != nil || !errors.Is(err, ErrProtocol) {
		t.Errorf("unknown mechanism: got %q, %v, want %v", challenge, err, ErrProtocol)
	}
	for _, second := range [][]byte{nil, {}} {
		server = NewServer(secret, false, frontHash)
		if _, err := server.First(mechanismPlus, nil); err != nil {
			t.Fatal(err)
		}
		if challenge, err := server.First(mechanismPlus, second); challenge != nil || !errors.Is(err, ErrProtocol) {
			t.Errorf("empty for the second time: got %q, %v, want %v", challenge, err, ErrProtocol)
		}
	}
}

// finals is the last message of a client, whose parts a test can spoil.
type finals struct{ binding, nonce, extension, proof string }

func (f finals) bytes() []byte {
	return []byte("c=" + f.binding + ",r=" + f.nonce + f.extension + ",p=" + f.proof)
}

// prove makes the proof right for the rest of f, so that a refusal is for nothing else.
func (f *finals) prove(key *Key, secret Secret, first, challenge []byte) {
	_, bare, _ := bytes.Cut(first, []byte(",,"))
	without := bytes.TrimSuffix(f.bytes(), []byte(",p="+f.proof))
	mask := sign(secret.StoredKey[:], authMessage(bare, challenge, without))
	for i := range mask {
		mask[i] ^= key[i]
	}
	f.proof = base64.StdEncoding.EncodeToString(mask[:])
}

// TestFinal spoils the last message of a client who knows the password.
func TestFinal(t *testing.T) {
	b64 := func(header string, binding []byte) string {
		return base64.StdEncoding.EncodeToString(append([]byte(header), binding...))
	}
	bound := func(hash []byte) string { return b64(headerPlus, hash) }
	binding := func(value string) func(*finals) { return func(f *finals) { f.binding = value } }
	nonce := func(change func(string) string) func(*finals) { return func(f *finals) { f.nonce = change(f.nonce) } }
	long, short := sha256.Sum256([]byte("another")), frontHash[:31]

	for _, c := range []struct {
		name, first string
		change      func(*finals)
		want        error
	}{
		{"n", "n,,n=,r=abc", binding("biws"), nil},
		{"p", plus, binding(bound(frontHash)), nil},
		{"extension", plus, func(f *finals) { f.extension = ",x=y,Z=" }, nil},

		{"p with the hash of another certificate", plus, binding(bound(long[:])), ErrChannelBinding},
		{"p with a truncated hash", plus, binding(bound(short)), ErrChannelBinding},
		{"p with an extended hash", plus, binding(bound(append(bytes.Clone(frontHash), 0))), ErrChannelBinding},
		{"p with no hash", plus, binding(bound(nil)), ErrChannelBinding},
		{"p with biws", plus, binding("biws"), ErrChannelBinding},
		{"p with eSws", plus, binding("eSws"), ErrChannelBinding},
		{"p with the hash only", plus, binding(b64("", frontHash)), ErrChannelBinding},
		{"p with another type", plus, binding(b64("p=tls-unique,,", frontHash)), ErrChannelBinding},
		{"p without padding", plus, binding(strings.TrimRight(bound(frontHash), "=")), ErrChannelBinding},
		{"p with an empty binding", plus, binding(""), ErrChannelBinding},
		{"n with eSws", "n,,n=,r=abc", binding("eSws"), ErrProtocol},
		{"n with the hash", "n,,n=,r=abc", binding(b64("n,,", frontHash)), ErrProtocol},
		{"n with p", "n,,n=,r=abc", binding(bound(frontHash)), ErrProtocol},
		{"n with an empty binding", "n,,n=,r=abc", binding(""), ErrProtocol},

		{"nonce of the client only", plus, nonce(func(string) string { return "abc" }), ErrProtocol},
		{"nonce truncated", plus, nonce(func(s string) string { return s[:len(s)-1] }), ErrProtocol},
		{"nonce extended", plus, nonce(func(s string) string { return s + "a" }), ErrProtocol},
		{"nonce of another client", plus, nonce(func(s string) string { return "xyz" + s[3:] }), ErrProtocol},
		{"nonce of another server", plus, nonce(func(s string) string { return s[:26] + "!" }), ErrProtocol},
		{"nonce empty", plus, nonce(func(string) string { return "" }), ErrProtocol},

		{"mandatory extension", plus, func(f *finals) { f.extension = ",m=x" }, ErrProtocol},
		{"second proof", plus, func(f *finals) { f.extension = ",p=" + key64 }, ErrProtocol},
		{"extension without a value", plus, func(f *finals) { f.extension = ",x" }, ErrProtocol},
		{"empty extension", plus, func(f *finals) { f.extension = "," }, ErrProtocol},
		{"NUL in an extension", plus, func(f *finals) { f.extension = ",x=\x00" }, ErrProtocol},
		{"1025 bytes", plus, func(f *finals) { f.extension = ",x=" + strings.Repeat("x", 1025) }, ErrProtocol},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, secret := derive("pencil", salt, 1)
			server := NewServer(secret, false, frontHash)
			mechanism, correct := mechanismPlus, bound(frontHash)
			if c.first[0] != 'p' {
				mechanism, correct = mechanismPlain, "biws"
			}
			challenge, err := server.First(mechanism, []byte(c.first))
			if err != nil {
				t.Fatal(err)
			}
			f := finals{binding: correct, nonce: string(server.fullNonce)}
			c.change(&f)
			f.prove(key, secret, []byte(c.first), challenge)
			expectFinal(t, server, f.bytes(), key, c.want)
		})
	}
}

// TestFinalWithY: the flag y is for connections on which PLUS was not offered, and c= has to repeat it.
func TestFinalWithY(t *testing.T) {
	for binding, want := range map[string]error{"eSws": nil, "biws": ErrProtocol, "": ErrProtocol} {
		key, secret := derive("pencil", salt, 1)
		server := NewServer(secret, false, nil)
		challenge, err := server.First(mechanismPlain, []byte("y,,n=,r=abc"))
		if err != nil {
			t.Fatal(err)
		}
		f := finals{binding: binding, nonce: string(server.fullNonce)}
		f.prove(key, secret, []byte("y,,n=,r=abc"), challenge)
		expectFinal(t, server, f.bytes(), key, want)
	}
}

// TestFinalProof spoils the proof itself, and what is around it.
func TestFinalProof(t *testing.T) {
	spoil := func(change func([]byte) []byte) func(string) string {
		return func(message string) string {
			at := strings.LastIndex(message, ",p=") + 3
			proof, _ := base64.StdEncoding.DecodeString(message[at:])
			return message[:at] + base64.StdEncoding.EncodeToString(change(proof))
		}
	}
	cut := func(old, with string) func(string) string {
		return func(message string) string { return strings.Replace(message, old, with, 1) }
	}
	for name, c := range map[string]struct {
		change func(string) string
		want   error
	}{
		"as it is":                   {func(s string) string { return s }, nil},
		"first bit":                  {spoil(func(p []byte) []byte { p[0] ^= 128; return p }), ErrProof},
		"last bit":                   {spoil(func(p []byte) []byte { p[31] ^= 1; return p }), ErrProof},
		"zeros":                      {spoil(func(p []byte) []byte { return make([]byte, 32) }), ErrProof},
		"extension not in the proof": {cut(",p=", ",x=y,p="), ErrProof},
		"31 bytes":                   {spoil(func(p []byte) []byte { return p[:31] }), ErrProtocol},
		"33 bytes":                   {spoil(func(p []byte) []byte { return append(p, 0) }), ErrProtocol},
		"64 bytes":                   {spoil(func(p []byte) []byte { return slices.Concat(p, p) }), ErrProtocol},
		"no bytes":                   {spoil(func(p []byte) []byte { return nil }), ErrProtocol},
		"not base64":                 {func(s string) string { return s[:len(s)-2] + "!=" }, ErrProtocol},
		"without padding":            {func(s string) string { return strings.TrimSuffix(s, "=") }, ErrProtocol},
		"line break in it":           {cut(",p=", ",p=\n"), ErrProtocol},
		"line break behind it":       {func(s string) string { return s + "\n" }, ErrProtocol},
		"NUL behind it":              {func(s string) string { return s + "\x00" }, ErrProtocol},
		"comma behind it":            {func(s string) string { return s + "," }, ErrProtocol},
		"extension behind it":        {func(s string) string { return s + ",x=y" }, ErrProtocol},
		"no proof":                   {func(s string) string { return s[:strings.LastIndex(s, ",p=")] }, ErrProtocol},
		"only the proof":             {func(s string) string { return s[strings.LastIndex(s, ",p="):] }, ErrProtocol},
		"no channel binding":         {func(s string) string { return s[strings.Index(s, "r="):] }, ErrProtocol},
		"no nonce":                   {func(s string) string { return s[:strings.Index(s, ",r=")] + s[strings.LastIndex(s, ",p="):] }, ErrProtocol},
		"empty":                      {func(string) string { return "" }, ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			key, secret := derive("pencil", salt, 1)
			server, client := NewServer(secret, false, frontHash), NewClient(key, secret, frontHash)
			response := string(challenged(t, server, client))
			expectFinal(t, server, []byte(c.change(response)), key, c.want)
		})
	}
}

// TestStrayBits: a proof has one form in base64. 43 digits and padding leave two bits over, and those must be zero.
func TestStrayBits(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	server, client := NewServer(secret, false, nil), NewClient(key, secret, nil)
	response := challenged(t, server, client)
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	last := len(response) - 2
	response[last] = digits[strings.IndexByte(digits, response[last])+1]
	expectFinal(t, server, response, key, ErrProtocol)
}

// expectFinal fails unless Final returns key, or else the error wanted and nothing that serves anybody.
func expectFinal(t *testing.T, server *Server, message []byte, key *Key, want error) {
	t.Helper()
	got, err := server.Final(message)
	switch final := server.ServerFinal(); {
	case want == nil && (err != nil || *got != *key || final == nil):
		t.Errorf("got error %v, server-final-message %q, want the client's key", err, final)
	case want != nil && (!errors.Is(err, want) || got != nil || final != nil):
		t.Errorf("got %v, key %v, server-final-message %q, want %v alone", err, got, final, want)
	}
}
