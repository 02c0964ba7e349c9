package scram

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
)

var mockKey = []byte("the fleet's mock key, 32 bytes..")

// TestMockSecretIsStable pins the values: proxies of different versions must agree on them.
func TestMockSecretIsStable(t *testing.T) {
	got := MockSecret(mockKey, "nobody", 4096)
	if again := MockSecret(mockKey, "nobody", 4096); !got.Equal(again) {
		t.Error("another secret for the same key and user")
	}
	// As a few lines of another language's HMAC say: the salt is the first half of HMAC(key, user), the keys are
	// HMAC(second half, their name).
	const want = "7db4a84269826578a8af430990b36820 50acb1a7 2ba41370"
	if got := fmt.Sprintf("%x %x %x", got.Salt, got.StoredKey[:4], got.ServerKey[:4]); got != want {
		t.Errorf("salt, StoredKey and ServerKey: got %s, want %s", got, want)
	}
	for name, other := range map[string]Secret{
		"user": MockSecret(mockKey, "nobody2", 4096),
		"key":  MockSecret([]byte("the fleet's other mock key......"), "nobody", 4096),
	} {
		if string(other.Salt) == string(got.Salt) || other.StoredKey == got.StoredKey || other.ServerKey == got.ServerKey {
			t.Errorf("the same values for another %s", name)
		}
	}
}

// TestMockLooksReal compares what a client sees of a role that exists and of one that does not.
func TestMockLooksReal(t *testing.T) {
	shape := regexp.MustCompile(`^r=cnonce[A-Za-z0-9+/]{24},s=[A-Za-z0-9+/]{22}==,i=4096$`)
	stored, err := ParseSecret(postgresSecrets[0].text)
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]bool)
	for _, server := range []*Server{
		NewServer(stored, false, frontHash),
		NewServer(MockSecret(mockKey, "nobody", 4096), true, frontHash),
	} {
		challenge, err := server.First("SCRAM-SHA-256", []byte("n,,n=,r=cnonce"))
		if err != nil || !shape.Match(challenge) {
			t.Errorf("First: got %q, %v, want it to match %v", challenge, err, shape)
		}
		response := fmt.Sprintf("c=biws,r=%s,p=%s", challenge[2:2+6+24], key64)
		key, err := server.Final([]byte(response))
		if key != nil || !errors.Is(err, ErrProof) {
			t.Fatalf("Final: got key %v, error %v, want %v", key, err, ErrProof)
		}
		if final := server.ServerFinal(); final != nil {
			t.Errorf("ServerFinal: got %q, want nothing", final)
		}
		texts[err.Error()] = true
	}
	if len(texts) != 1 {
		t.Errorf("got different errors: %v", texts)
	}
}

// TestDoomed: a role that has expired knows its password, and gets what a wrong password gets.
func TestDoomed(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	doomed, client := NewServer(secret, true, nil), NewClient(key, secret, nil)
	got, err := doomed.Final(challenged(t, doomed, client))
	if got != nil || err != ErrProof {
		t.Errorf("got key %v, error %v, want %v", got, err, ErrProof)
	}
	if final := doomed.ServerFinal(); final != nil {
		t.Errorf("ServerFinal: got %q, want nothing", final)
	}

	other, _ := derive("pencils", salt, 1)
	wrong, client := NewServer(secret, false, nil), NewClient(other, secret, nil)
	if got, err := wrong.Final(challenged(t, wrong, client)); got != nil || err != ErrProof {
		t.Errorf("wrong password: got key %v, error %v, want %v", got, err, ErrProof)
	}
}

// TestDoomedDoesTheSameWork counts allocations, which follow the work.
func TestDoomedDoesTheSameWork(t *testing.T) {
	_, secret := derive("pencil", salt, 1)
	wrong, _ := derive("pencils", salt, 1)
	work := func(doomed bool, secret Secret) float64 {
		return testing.AllocsPerRun(50, func() {
			server, client := NewServer(secret, doomed, nil), NewClient(wrong, secret, nil)
			if _, err := server.Final(challenged(t, server, client)); err != ErrProof {
				t.Error(err)
			}
		})
	}
	if got, want := work(true, MockSecret(mockKey, "nobody", 1)), work(false, secret); got != want {
		t.Errorf("a doomed exchange makes %v allocations, one with a wrong password %v", got, want)
	}
}
