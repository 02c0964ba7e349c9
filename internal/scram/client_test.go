package scram

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestServerFirst goes through what a server may and may not answer.
func TestServerFirst(t *testing.T) {
	salt64 := base64.StdEncoding.EncodeToString(salt)
	for _, c := range []struct {
		name, message string // NONCE stands for the client's
		want          error
	}{
		{"as PostgreSQL does", "r=NONCEabc,s=" + salt64 + ",i=4096", nil},
		{"least extension of the nonce", "r=NONCE!,s=" + salt64 + ",i=4096", nil},
		{"extension", "r=NONCEabc,s=" + salt64 + ",i=4096,x=y", nil},

		{"another salt", "r=NONCEabc,s=" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdeF")) + ",i=4096", ErrSecretChanged},
		{"shorter salt", "r=NONCEabc,s=" + base64.StdEncoding.EncodeToString(salt[:15]) + ",i=4096", ErrSecretChanged},
		{"longer salt", "r=NONCEabc,s=" + base64.StdEncoding.EncodeToString(append(bytes.Clone(salt), 0)) + ",i=4096", ErrSecretChanged},
		{"other iterations", "r=NONCEabc,s=" + salt64 + ",i=4097", ErrSecretChanged},
		{"iterations 1", "r=NONCEabc,s=" + salt64 + ",i=1", ErrSecretChanged},
		{"most iterations", "r=NONCEabc,s=" + salt64 + ",i=2147483647", ErrSecretChanged},

		{"nonce not extended", "r=NONCE,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"nonce of another", "r=abcdefghijklmnopqrstuvwxyz,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"nonce in front of ours", "r=xNONCE,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"nonce empty", "r=,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"nonce not printable", "r=NONCE\x7f,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"nonce with a space", "r=NONCE a,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"salt empty", "r=NONCEabc,s=,i=4096", ErrServerMessage},
		{"salt not base64", "r=NONCEabc,s=!!!!,i=4096", ErrServerMessage},
		{"salt with a line break", "r=NONCEabc,s=\n" + salt64 + ",i=4096", ErrServerMessage},
		{"salt without padding", "r=NONCEabc,s=" + strings.TrimRight(salt64, "=") + ",i=4096", ErrServerMessage},
		{"iterations 0", "r=NONCEabc,s=" + salt64 + ",i=0", ErrServerMessage},
		{"iterations negative", "r=NONCEabc,s=" + salt64 + ",i=-1", ErrServerMessage},
		{"iterations signed", "r=NONCEabc,s=" + salt64 + ",i=+4096", ErrServerMessage},
		{"iterations leading zero", "r=NONCEabc,s=" + salt64 + ",i=04096", ErrServerMessage},
		{"iterations empty", "r=NONCEabc,s=" + salt64 + ",i=", ErrServerMessage},
		{"iterations 2^31", "r=NONCEabc,s=" + salt64 + ",i=2147483648", ErrServerMessage},
		{"iterations 2^32+4096", "r=NONCEabc,s=" + salt64 + ",i=4294971392", ErrServerMessage},
		{"iterations huge", "r=NONCEabc,s=" + salt64 + ",i=" + strings.Repeat("9", 100), ErrServerMessage},
		{"mandatory extension in front", "m=x,r=NONCEabc,s=" + salt64 + ",i=4096", ErrServerMessage},
		{"mandatory extension behind", "r=NONCEabc,s=" + salt64 + ",i=4096,m=x", ErrServerMessage},
		{"comma behind", "r=NONCEabc,s=" + salt64 + ",i=4096,", ErrServerMessage},
		{"NUL behind", "r=NONCEabc,s=" + salt64 + ",i=4096\x00", ErrServerMessage},
		{"wrong order", "r=NONCEabc,i=4096,s=" + salt64, ErrServerMessage},
		{"no salt", "r=NONCEabc,i=4096", ErrServerMessage},
		{"no iterations", "r=NONCEabc,s=" + salt64, ErrServerMessage},
		{"no nonce", "s=" + salt64 + ",i=4096", ErrServerMessage},
		{"error", "e=other-error", ErrServerMessage},
		{"verifier", "v=" + key64, ErrServerMessage},
		{"empty", "", ErrServerMessage},
		{"nonce of 1 MB", "r=NONCE" + strings.Repeat("a", 1<<20) + ",s=" + salt64 + ",i=4096", ErrServerMessage},
		{"salt of 1 MB", "r=NONCEabc,s=" + strings.Repeat("YWFh", 1<<18) + ",i=4096", ErrServerMessage},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, secret := derive("pencil", salt, 1)
			secret.Iterations = 4096
			client := NewClient(key, secret, backHash)
			message := strings.Replace(c.message, "NONCE", string(client.nonce), 1)
			response, err := client.Final([]byte(message))
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				if response != nil {
					t.Errorf("got response %q beside the error", response)
				}
				if errors.Is(err, ErrProtocol) {
					t.Error("the error blames the client for what the server did")
				}
				return
			}
			nonce, _, _ := strings.Cut(message, ",")
			cbind := base64.StdEncoding.EncodeToString(slices.Concat([]byte(headerPlus), backHash))
			if want := "c=" + cbind + "," + nonce + ",p="; !strings.HasPrefix(string(response), want) {
				t.Errorf("got response %q, want it to begin with %q", response, want)
			}
		})
	}
}

// TestSizeOfServerFirst: the limit is in bytes of the whole message.
func TestSizeOfServerFirst(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	for size, want := range map[int]error{maxServerMessage: nil, maxServerMessage + 1: ErrServerMessage} {
		client := NewClient(key, secret, nil)
		tail := ",s=" + base64.StdEncoding.EncodeToString(salt) + ",i=1"
		message := "r=" + string(client.nonce)
		message += strings.Repeat("a", size-len(message)-len(tail)) + tail
		if _, err := client.Final([]byte(message)); !errors.Is(err, want) {
			t.Errorf("%d bytes: got %v, want %v", size, err, want)
		}
	}
}

// TestVerify goes through what a server may and may not end with.
func TestVerify(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(string) string
		want   error
	}{
		{"as PostgreSQL does", func(s string) string { return s }, nil},
		{"extension", func(s string) string { return s + ",x=y" }, nil},

		{"zeros", func(string) string { return "v=" + base64.StdEncoding.EncodeToString(make([]byte, 32)) }, ErrServerSignature},
		{"another signature", func(string) string { return "v=" + key64 }, ErrServerSignature},

		{"error", func(string) string { return "e=invalid-proof" }, ErrServerRefused},
		{"error of its own", func(string) string { return "e=\x1b[31m" + strings.Repeat("x", 1000) }, ErrServerRefused},
		{"error with extension", func(string) string { return "e=other-error,x=y" }, ErrServerRefused},

		{"error and verifier", func(s string) string { return "x=y," + s }, ErrServerMessage},
		{"31 bytes", func(string) string { return "v=" + base64.StdEncoding.EncodeToString(make([]byte, 31)) }, ErrServerMessage},
		{"33 bytes", func(string) string { return "v=" + base64.StdEncoding.EncodeToString(make([]byte, 33)) }, ErrServerMessage},
		{"truncated", func(s string) string { return s[:len(s)-4] }, ErrServerMessage},
		{"without padding", func(s string) string { return strings.TrimSuffix(s, "=") }, ErrServerMessage},
		{"line break behind", func(s string) string { return s + "\n" }, ErrServerMessage},
		{"NUL behind", func(s string) string { return s + "\x00" }, ErrServerMessage},
		{"comma behind", func(s string) string { return s + "," }, ErrServerMessage},
		{"mandatory extension", func(s string) string { return s + ",m=x" }, ErrServerMessage},
		{"empty verifier", func(string) string { return "v=" }, ErrServerMessage},
		{"empty", func(string) string { return "" }, ErrServerMessage},
		{"2001 bytes", func(s string) string { return s + ",x=" + strings.Repeat("y", 2001-3-len(s)) }, ErrServerMessage},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, secret := derive("pencil", salt, 1)
			server, client := NewServer(secret, false, backHash), NewClient(key, secret, backHash)
			if _, err := server.Final(challenged(t, server, client)); err != nil {
				t.Fatal(err)
			}
			err := client.Verify([]byte(c.change(string(server.ServerFinal()))))
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil && (len(err.Error()) > 200 || strings.ContainsRune(err.Error(), '\x1b')) {
				t.Errorf("the error is not fit for a log: %q", err)
			}
		})
	}
}

// TestImpostor: a server with the StoredKey alone can check the client, but not prove itself.
func TestImpostor(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	stolen := secret
	stolen.ServerKey = [32]byte{}
	server, client := NewServer(stolen, false, nil), NewClient(key, secret, nil)
	if _, err := server.Final(challenged(t, server, client)); err != nil {
		t.Fatal(err)
	}
	if err := client.Verify(server.ServerFinal()); !errors.Is(err, ErrServerSignature) {
		t.Errorf("got %v, want %v", err, ErrServerSignature)
	}
}

// TestBindingMismatch: between Client and the server is somebody with another certificate.
func TestBindingMismatch(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	server, client := NewServer(secret, false, backHash), NewClient(key, secret, frontHash)
	if _, err := server.Final(challenged(t, server, client)); !errors.Is(err, ErrChannelBinding) {
		t.Errorf("got %v, want %v", err, ErrChannelBinding)
	}
}
