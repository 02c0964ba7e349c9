package scram

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// Secrets that PostgreSQL made.
var postgresSecrets = []struct{ name, password, text string }{
	{"15", "pencil", "SCRAM-SHA-256$4096:HQISmWdvDP1xvbwHrRc0IA==$ZiJJl/oY798mdGWPxeB1mCMtPO7TyzwNKJ3IHwY0RM4=:TiMeupK6B5bUvLHIDjH0bWOsz/m1c0oj/cY6UZCRtL4="},
	{"18", "pencil", "SCRAM-SHA-256$4096:J4r6Eq0FNRkKx4+GQ2itFw==$TWAzSAlJdlP4bjlnCy9aFXqWoX+WIcwSq7VeTSKeiO8=:iXBETaTXV1ZQlUmMdusr2YVb7m1ohciuZl79tUL6XRM="},
	{"18 scram_iterations=1", "pencil", "SCRAM-SHA-256$1:6EBCy2IsuRJfbXudQTadjg==$dRVXCBtAI65tu0M9tVRL+6pDejs3b5UtsRqJGeHKywo=:vPohyHWoFLmLK078o8koNCpIcuvTFyvE8kzhNjbule4="},
	{"18 scram_iterations=12345", "correct horse battery staple", "SCRAM-SHA-256$12345:N2a3Mhp8mmVd552WUvpdFA==$kD/I6fNQh3f3eBcyk52m0ag0K1t7KbibT7UNmqtfLwI=:ytLxMxz8PJ/xuPgM8Z9S4qo5wf0SW5dNJTCTnqKkkKI="},
}

func TestSecretsOfPostgreSQL(t *testing.T) {
	for _, c := range postgresSecrets {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseSecret(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if want := NewSecret(c.password, got.Salt, got.Iterations); !got.Equal(want) {
				t.Errorf("got another secret than that of password %q", c.password)
			}
			if wrong := NewSecret("pencils", got.Salt, got.Iterations); got.Equal(wrong) {
				t.Error("got the secret of another password")
			}
			if got := text(got); got != c.text {
				t.Errorf("rendered again: got %q, want %q", got, c.text)
			}
		})
	}
}

// key64 is base64 of 32 bytes.
const key64 = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="

func TestParseSecret(t *testing.T) {
	for _, c := range []struct {
		text       string
		salt       string
		iterations int
	}{
		{"SCRAM-SHA-256$1:YQ==$" + key64 + ":" + key64, "a", 1},
		{"SCRAM-SHA-256$2147483647:YWI=$" + key64 + ":" + key64, "ab", 1<<31 - 1},
		{"SCRAM-SHA-256$4096:" + strings.Repeat("YWFh", 400) + "$" + key64 + ":" + key64, strings.Repeat("a", 1200), 4096},
	} {
		got, err := ParseSecret(c.text)
		if err != nil || string(got.Salt) != c.salt || got.Iterations != c.iterations {
			t.Errorf("ParseSecret(%.40q): got %q, %d, %v, want %q, %d", c.text, got.Salt, got.Iterations, err, c.salt, c.iterations)
		}
		if string(got.StoredKey[:]) != strings.Repeat("a", 32) || got.ServerKey != got.StoredKey {
			t.Errorf("ParseSecret(%.40q): wrong keys", c.text)
		}
	}
}

func TestParseSecretRefuses(t *testing.T) {
	const good = "SCRAM-SHA-256$4096:c2FsdA==$" + key64 + ":" + key64
	if _, err := ParseSecret(good); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"empty":                   "",
		"plain password":          "correct horse",
		"md5":                     "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"prefix only":             "SCRAM-SHA-256$",
		"another mechanism":       strings.Replace(good, "256", "512", 1),
		"lower case":              strings.Replace(good, "SCRAM", "scram", 1),
		"space in front":          " " + good,
		"space behind":            good + " ",
		"line break behind":       good + "\n",
		"NUL behind":              good + "\x00",
		"third key":               good + ":" + key64,
		"another section":         good + "$",
		"no iterations":           strings.Replace(good, "4096", "", 1),
		"iterations 0":            strings.Replace(good, "4096", "0", 1),
		"iterations negative":     strings.Replace(good, "4096", "-1", 1),
		"iterations signed":       strings.Replace(good, "4096", "+1", 1),
		"iterations leading zero": strings.Replace(good, "4096", "04096", 1),
		"iterations hexadecimal":  strings.Replace(good, "4096", "0x10", 1),
		"iterations underscore":   strings.Replace(good, "4096", "4_096", 1),
		"iterations 2^31":         strings.Replace(good, "4096", "2147483648", 1),
		"iterations 2^64+1":       strings.Replace(good, "4096", "18446744073709551617", 1),
		"no salt":                 strings.Replace(good, "c2FsdA==", "", 1),
		"salt not base64":         strings.Replace(good, "c2FsdA==", "c2FsdA=!", 1),
		"salt without padding":    strings.Replace(good, "c2FsdA==", "c2FsdA", 1),
		"salt with stray bits":    strings.Replace(good, "c2FsdA==", "c2FsdB==", 1),
		"salt with a line break":  strings.Replace(good, "c2FsdA==", "c2Fs\ndA==", 1),
		"salt URL alphabet":       strings.Replace(good, "c2FsdA==", "-_-_", 1),
		"StoredKey of 31 bytes":   strings.Replace(good, key64, base64.StdEncoding.EncodeToString(make([]byte, 31)), 1),
		"StoredKey of 33 bytes":   strings.Replace(good, key64, base64.StdEncoding.EncodeToString(make([]byte, 33)), 1),
		"StoredKey missing":       strings.Replace(good, key64, "", 1),
		"ServerKey of 31 bytes":   strings.TrimSuffix(good, key64) + base64.StdEncoding.EncodeToString(make([]byte, 31)),
		"ServerKey missing":       strings.TrimSuffix(good, key64),
		"keys missing":            "SCRAM-SHA-256$4096:c2FsdA==",
		"too long":                strings.Replace(good, "c2FsdA==", strings.Repeat("YWFh", 500), 1),
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSecret(text)
			if !errors.Is(err, ErrSecret) {
				t.Fatalf("got %v, want %v", err, ErrSecret)
			}
			if !got.Equal(Secret{}) {
				t.Error("got a secret beside the error")
			}
			for _, part := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("$: ", r) }) {
				if len(part) > 2 && part != "SCRAM-SHA-256" && part != "SHA-256" && strings.Contains(err.Error(), part) {
					t.Errorf("the error %q holds %q of the text", err, part)
				}
			}
		})
	}
}

func TestNewSecretPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"no salt":       func() { NewSecret("pencil", nil, 1) },
		"no iterations": func() { NewSecret("pencil", salt, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("got no panic")
				}
			}()
			f()
		})
	}
}

func TestSecretEqual(t *testing.T) {
	secret := NewSecret("pencil", salt, 2)
	if same := NewSecret("pencil", bytes.Clone(salt), 2); !secret.Equal(same) {
		t.Error("not equal to itself")
	}
	for name, change := range map[string]func(*Secret){
		"iterations":  func(s *Secret) { s.Iterations++ },
		"salt":        func(s *Secret) { s.Salt = []byte("0123456789abcdeF") },
		"salt prefix": func(s *Secret) { s.Salt = s.Salt[:15] },
		"StoredKey":   func(s *Secret) { s.StoredKey[31] ^= 1 },
		"ServerKey":   func(s *Secret) { s.ServerKey[0] ^= 128 },
	} {
		other := secret
		change(&other)
		if secret.Equal(other) || other.Equal(secret) {
			t.Errorf("equal in spite of another %s", name)
		}
	}
}
