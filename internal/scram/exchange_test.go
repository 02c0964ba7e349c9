package scram

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"
)

var (
	frontHash = bytes.Repeat([]byte{0xf0}, 32)
	backHash  = bytes.Repeat([]byte{0xba}, 48)
	salt      = []byte("0123456789abcdef")
)

// text renders a secret as PostgreSQL does.
func text(s Secret) string {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", s.Iterations, b64(s.Salt), b64(s.StoredKey[:]), b64(s.ServerKey[:]))
}

// challenged returns a server that waits for the client's last message, a client that has answered it, and the answer.
func challenged(t testing.TB, server *Server, client *Client) []byte {
	t.Helper()
	challenge, err := server.First(client.Mechanism(), client.First())
	if err != nil {
		t.Fatalf("Server.First: %v", err)
	}
	response, err := client.Final(challenge)
	if err != nil {
		t.Fatalf("Client.Final: %v", err)
	}
	return response
}

// TestRFC7677 plays the example of RFC 7677 section 3, with its nonces, from both sides.
func TestRFC7677(t *testing.T) {
	const (
		cnonce      = "rOprNGfwEbeRWgbNEkqO"
		snonce      = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
		clientFirst = "n,,n=user,r=" + cnonce
		serverFirst = "r=" + cnonce + snonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
		clientFinal = "c=biws,r=" + cnonce + snonce + ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
		serverFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
	)
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	key, secret := derive("pencil", salt, 4096)

	server := NewServer(secret, false, nil)
	server.nonce = []byte(snonce)
	if got, err := server.First("SCRAM-SHA-256", []byte(clientFirst)); err != nil || string(got) != serverFirst {
		t.Errorf("server-first-message: got %q, %v, want %q", got, err, serverFirst)
	}
	got, err := server.Final([]byte(clientFinal))
	if err != nil || *got != *key {
		t.Fatalf("Final: got error %v, or not the ClientKey of the password", err)
	}
	if got := server.ServerFinal(); string(got) != serverFinal {
		t.Errorf("server-final-message: got %q, want %q", got, serverFinal)
	}

	client := NewClient(got, secret, nil)
	client.nonce, client.bare = []byte(cnonce), []byte("n=user,r="+cnonce)
	if got := client.First(); string(got) != clientFirst {
		t.Errorf("client-first-message: got %q, want %q", got, clientFirst)
	}
	if got, err := client.Final([]byte(serverFirst)); err != nil || string(got) != clientFinal {
		t.Errorf("client-final-message: got %q, %v, want %q", got, err, clientFinal)
	}
	if err := client.Verify([]byte(serverFinal)); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

// TestPassThrough is the proxy's login: a client against Server, and Client with the key against another Server, which has
// the same secret and another certificate.
func TestPassThrough(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	for _, front := range [][]byte{nil, frontHash} {
		for _, back := range [][]byte{nil, backHash} {
			t.Run(fmt.Sprintf("front %d back %d", len(front), len(back)), func(t *testing.T) {
				user := NewClient(key, secret, front)
				proxy := NewServer(secret, false, front)
				recovered, err := proxy.Final(challenged(t, proxy, user))
				if err != nil {
					t.Fatalf("front: %v", err)
				}
				login := NewClient(recovered, secret, back)
				backend := NewServer(secret, false, back)
				again, err := backend.Final(challenged(t, backend, login))
				if err != nil {
					t.Fatalf("back: %v", err)
				}
				if *recovered != *key || *again != *key {
					t.Error("got another ClientKey than that of the password")
				}
				if err := login.Verify(backend.ServerFinal()); err != nil {
					t.Errorf("back: Verify: %v", err)
				}
				if err := user.Verify(proxy.ServerFinal()); err != nil {
					t.Errorf("front: Verify: %v", err)
				}
			})
		}
	}
}

func TestMechanisms(t *testing.T) {
	for _, c := range []struct {
		binding []byte
		offer   []string
		choice  string
	}{
		{nil, []string{"SCRAM-SHA-256"}, "SCRAM-SHA-256"},
		{[]byte{}, []string{"SCRAM-SHA-256"}, "SCRAM-SHA-256"},
		{frontHash, []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}, "SCRAM-SHA-256-PLUS"},
	} {
		if got := NewServer(Secret{}, false, c.binding).Mechanisms(); !slices.Equal(got, c.offer) {
			t.Errorf("Mechanisms with %d bytes of binding: got %q, want %q", len(c.binding), got, c.offer)
		}
		if got := NewClient(new(Key), Secret{}, c.binding).Mechanism(); got != c.choice {
			t.Errorf("Mechanism with %d bytes of binding: got %q, want %q", len(c.binding), got, c.choice)
		}
	}
}

func TestNoncesDiffer(t *testing.T) {
	if a, b := newNonce(), newNonce(); len(a) != 24 || !isNonce(a) || bytes.Equal(a, b) {
		t.Errorf("got nonces %q and %q, want two different ones of 24 printable characters", a, b)
	}
}

// TestOrder: each step has its turn, once, and nothing goes on after a failure or a Wipe.
func TestOrder(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	want := func(err error) {
		t.Helper()
		if !errors.Is(err, errOrder) {
			t.Errorf("got %v, want %v", err, errOrder)
		}
	}
	server, client := NewServer(secret, false, nil), NewClient(key, secret, nil)
	_, err := server.Final(nil)
	want(err)
	want(client.Verify(nil))
	response := challenged(t, server, client)
	_, err = server.First("SCRAM-SHA-256", client.First())
	want(err)
	_, err = client.Final(nil)
	want(err)
	if got := server.ServerFinal(); got != nil {
		t.Errorf("ServerFinal before Final: got %q, want nothing", got)
	}
	if _, err = server.Final(response); err != nil {
		t.Fatal(err)
	}
	_, err = server.Final(response)
	want(err)
	final := server.ServerFinal()
	if err := client.Verify(final); err != nil {
		t.Fatal(err)
	}
	want(client.Verify(final))

	server, client = NewServer(secret, false, nil), NewClient(key, secret, nil)
	if _, err := server.First("PLAIN", client.First()); !errors.Is(err, ErrProtocol) {
		t.Fatal(err)
	}
	_, err = server.First("SCRAM-SHA-256", client.First())
	want(err)
	if _, err := client.Final([]byte("x")); !errors.Is(err, ErrServerMessage) {
		t.Fatal(err)
	}
	_, err = client.Final([]byte("x"))
	want(err)
}

func TestWipe(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	server, client := NewServer(secret, false, nil), NewClient(key, secret, nil)
	recovered, err := server.Final(challenged(t, server, client))
	if err != nil {
		t.Fatal(err)
	}
	server.Wipe()
	client.Wipe()
	var zero [32]byte
	for name, got := range map[string][32]byte{
		"server StoredKey": server.secret.StoredKey, "server ServerKey": server.secret.ServerKey,
		"client StoredKey": client.secret.StoredKey, "client ServerKey": client.secret.ServerKey,
		"server signature": server.signature, "client signature": client.signature,
	} {
		if got != zero {
			t.Errorf("%s is still there", name)
		}
	}
	if got := server.ServerFinal(); got != nil {
		t.Errorf("ServerFinal after Wipe: got %q, want nothing", got)
	}
	if err := client.Verify([]byte("v=" + base64.StdEncoding.EncodeToString(zero[:]))); !errors.Is(err, errOrder) {
		t.Errorf("Verify after Wipe: got %v, want %v", err, errOrder)
	}
	if *recovered == zero || secret.StoredKey == zero {
		t.Error("Wipe took what belongs to the caller")
	}
	recovered.Wipe()
	if *recovered != zero {
		t.Error("Key.Wipe left the key")
	}
	(*Key)(nil).Wipe()
}

// TestMessagesAreNotKept: callers reuse their buffers.
func TestMessagesAreNotKept(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	user, server := NewClient(key, secret, frontHash), NewServer(secret, false, frontHash)
	first := user.First()
	challenge, err := server.First(user.Mechanism(), first)
	if err != nil {
		t.Fatal(err)
	}
	clear(first)
	response, err := user.Final(challenge)
	if err != nil {
		t.Fatal(err)
	}
	clear(challenge)
	if _, err := server.Final(response); err != nil {
		t.Errorf("Final: %v", err)
	}
	clear(response)
	if err := user.Verify(server.ServerFinal()); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

// BenchmarkExchange is the proxy's work for one login: both of its sides, without those of the client and the server.
func BenchmarkExchange(b *testing.B) {
	key, secret := derive("pencil", salt, 4096)
	cnonce, snonce := newNonce(), newNonce()
	clientFirst := append([]byte("p=tls-server-end-point,,n=,r="), cnonce...)

	// The nonces are fixed so that the answers of client and server can be made beforehand.
	user := NewClient(key, secret, frontHash)
	user.nonce, user.bare = cnonce, clientFirst[len(headerPlus):]
	front := NewServer(secret, false, frontHash)
	front.nonce = snonce
	clientFinal := challenged(b, front, user)
	backend, login := NewServer(secret, false, backHash), NewClient(key, secret, backHash)
	login.nonce, login.bare = cnonce, user.bare
	backend.nonce = snonce
	serverFirst, err := backend.First(login.Mechanism(), login.First())
	if err != nil {
		b.Fatal(err)
	}
	last, err := login.Final(serverFirst)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := backend.Final(last); err != nil {
		b.Fatal(err)
	}
	serverFinal := backend.ServerFinal()

	b.ReportAllocs()
	for b.Loop() {
		server := NewServer(secret, false, frontHash)
		server.nonce = snonce
		_, err1 := server.First(mechanismPlus, clientFirst)
		key, err2 := server.Final(clientFinal)
		client := NewClient(key, secret, backHash)
		client.nonce, client.bare = cnonce, user.bare
		_, err3 := client.Final(serverFirst)
		err4 := client.Verify(serverFinal)
		if err := errors.Join(err1, err2, err3, err4); err != nil || server.ServerFinal() == nil {
			b.Fatal(err)
		}
		key.Wipe()
		server.Wipe()
		client.Wipe()
	}
}
