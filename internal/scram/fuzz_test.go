package scram

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"testing"
)

// FuzzParseSecret: what is accepted has one spelling, and errors repeat nothing.
func FuzzParseSecret(f *testing.F) {
	for _, c := range postgresSecrets {
		f.Add(c.text)
	}
	f.Add("SCRAM-SHA-256$1:YQ==$" + key64 + ":" + key64)
	f.Add("SCRAM-SHA-256$04096:c2FsdA==$" + key64 + ":" + key64)
	f.Add("SCRAM-SHA-256$4096:c2Fs\ndA==$" + key64 + ":" + key64)
	f.Add("md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, s string) {
		secret, err := ParseSecret(s)
		switch {
		case err != nil && (!errors.Is(err, ErrSecret) || len(err.Error()) > 60):
			t.Errorf("error %q for %q", err, s)
		case err == nil && text(secret) != s:
			t.Errorf("%q became %q", s, text(secret))
		}
	})
}

// FuzzClientFirst: an accepted message is its header and the bare message, and the nonce is fit to be sent back.
func FuzzClientFirst(f *testing.F) {
	for _, s := range []string{"n,,n=,r=abc", "y,,n=user,r=abc,x=y", plus, "n,a=b,n=,r=abc", "n,,m=x,n=,r=abc", "p=tls-unique,,n=,r=a", "n,,n=,r=a\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		first, err := parseClientFirst(message)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error %q", err)
			}
			return
		}
		if !bytes.Equal(append(bytes.Clone(first.header), first.bare...), message) {
			t.Errorf("%q is not %q and %q", message, first.header, first.bare)
		}
		if header := string(first.header); header != "n,," && header != "y,," && header != headerPlus || header[0] != first.flag {
			t.Errorf("header %q, flag %q", header, first.flag)
		}
		if len(message) > maxClientMessage || !isNonce(first.nonce) || bytes.IndexByte(first.nonce, ',') >= 0 {
			t.Errorf("%d bytes with nonce %q", len(message), first.nonce)
		}
	})
}

// FuzzClientFinal: an accepted message is its part without the proof and the proof, in one spelling.
func FuzzClientFinal(f *testing.F) {
	for _, s := range []string{
		"c=biws,r=abcdef,p=" + key64, "c=eSws,r=abcdef,x=y,p=" + key64, "c=,r=,p=" + key64, ",p=" + key64,
		"c=biws,r=a,p=" + key64 + ",p=" + key64, "c=biws,r=abcdef,p=" + key64 + ",x=y", "c=biws,r=abcdef",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		final, err := parseClientFinal(message)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error %q", err)
			}
			return
		}
		if again := string(final.withoutProof) + ",p=" + base64.StdEncoding.EncodeToString(final.proof[:]); again != string(message) {
			t.Errorf("%q became %q", message, again)
		}
		if start := "c=" + string(final.binding) + ",r=" + string(final.nonce); !strings.HasPrefix(string(message), start) {
			t.Errorf("%q does not begin with %q", message, start)
		}
	})
}

// FuzzServerFirst: the fields of an accepted message, put together again, are its beginning.
func FuzzServerFirst(f *testing.F) {
	for _, s := range []string{
		"r=abc,s=c2FsdA==,i=4096", "r=abc,s=c2FsdA==,i=1,x=y", "r=abc,s=c2FsdA==,i=0", "r=abc,s=,i=1",
		"r=abc,s=c2FsdA==,i=2147483648", "m=x,r=abc,s=c2FsdA==,i=1", "e=other-error",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		first, err := parseServerFirst(message)
		if err != nil {
			if !errors.Is(err, ErrServerMessage) {
				t.Errorf("error %q", err)
			}
			return
		}
		again := "r=" + string(first.nonce) + ",s=" + base64.StdEncoding.EncodeToString(first.salt) + ",i=" + strconv.Itoa(first.iterations)
		if rest, ok := strings.CutPrefix(string(message), again); !ok || rest != "" && rest[0] != ',' {
			t.Errorf("%q became %q", message, again)
		}
		if first.iterations < 1 || len(first.salt) == 0 || len(message) > maxServerMessage {
			t.Errorf("%q was accepted", message)
		}
	})
}

// FuzzServerFinal: an accepted message begins with the verifier in its one spelling.
func FuzzServerFinal(f *testing.F) {
	for _, s := range []string{"v=" + key64, "v=" + key64 + ",x=y", "e=invalid-proof", "e=", "v=", "v=YQ==", "v=" + key64 + "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		signature, err := parseServerFinal(message)
		if err != nil {
			if !errors.Is(err, ErrServerMessage) && !errors.Is(err, ErrServerRefused) {
				t.Errorf("error %q", err)
			}
			return
		}
		again := "v=" + base64.StdEncoding.EncodeToString(signature[:])
		if rest, ok := strings.CutPrefix(string(message), again); !ok || rest != "" && rest[0] != ',' {
			t.Errorf("%q became %q", message, again)
		}
	})
}

// FuzzServer: no messages get a key out of a server whose password nobody knows, or a proof that it knows the secret.
func FuzzServer(f *testing.F) {
	f.Add("SCRAM-SHA-256", []byte("n,,n=,r=abc"), []byte("c=biws,r=abcdef,p="+key64))
	f.Add("SCRAM-SHA-256-PLUS", []byte(plus), []byte("c="+base64.StdEncoding.EncodeToString([]byte(headerPlus))+",r=abcdef,p="+key64))
	secret := MockSecret(mockKey, "nobody", 1)
	f.Fuzz(func(t *testing.T, mechanism string, first, final []byte) {
		server := NewServer(secret, false, frontHash)
		server.nonce = []byte("def")
		if _, err := server.First(mechanism, first); err != nil && !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrNegotiation) {
			t.Errorf("First: error %q", err)
		}
		key, err := server.Final(final)
		if key != nil || err == nil || server.ServerFinal() != nil {
			t.Errorf("got key %v, error %v, final %q", key, err, server.ServerFinal())
		}
	})
}
