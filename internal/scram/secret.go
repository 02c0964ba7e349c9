package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	secretPrefix = "SCRAM-SHA-256$"
	// maxSecret bounds the text of a secret. PostgreSQL 18 allows 512 bytes (MAX_ENCRYPTED_PASSWORD_LEN), older ones
	// more, but a salt that is too long for a server-first-message serves nobody.
	maxSecret = maxServerMessage
	// mockSalt is the length of the salts that PostgreSQL makes (SCRAM_DEFAULT_SALT_LEN).
	mockSalt = 16
)

// Secret is what a server stores of a role's password. It does not log in by itself, but it is enough to pose as the server,
// to guess the password, and to get the ClientKey out of an observed exchange.
//
// It prints without salt and keys, except in an unexported field of another struct, where the fmt package calls no methods:
// keep a *Secret there, which %v writes as an address. Copies share Salt, which nobody may change.
type Secret struct {
	// Iterations is the iteration count of PBKDF2, 1 or more.
	Iterations int
	Salt       []byte   `json:"-"`
	StoredKey  [32]byte `json:"-"`
	ServerKey  [32]byte `json:"-"`
}

// ParseSecret reads a secret in PostgreSQL's form, "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>" with salt and
// keys in base64 (manual, "pg_authid"). Salts may have any length, and the least iteration count is 1, as in PostgreSQL.
// The error is ErrSecret with the part that is wrong, and never with the text.
func ParseSecret(text string) (Secret, error) {
	rest, found := strings.CutPrefix(text, secretPrefix)
	if !found || len(text) > maxSecret {
		return Secret{}, ErrSecret
	}
	// A separator that is missing leaves an empty part behind it, which is refused as such.
	parameters, keys, _ := strings.Cut(rest, "$")
	iterations, salt, _ := strings.Cut(parameters, ":")
	stored, server, _ := strings.Cut(keys, ":")

	var secret Secret
	var ok bool
	if secret.Iterations, ok = parseIterations([]byte(iterations)); !ok {
		return Secret{}, fmt.Errorf("%w: iteration count", ErrSecret)
	}
	if secret.Salt, ok = decodeBase64([]byte(salt)); !ok {
		return Secret{}, fmt.Errorf("%w: salt", ErrSecret)
	}
	if !decodeKey(&secret.StoredKey, []byte(stored)) {
		return Secret{}, fmt.Errorf("%w: StoredKey", ErrSecret)
	}
	if !decodeKey(&secret.ServerKey, []byte(server)) {
		return Secret{}, fmt.Errorf("%w: ServerKey", ErrSecret)
	}
	return secret, nil
}

// NewSecret makes the secret of a password, for tests and tools. It does not apply SASLprep, so only passwords in ASCII give
// what PostgreSQL would store. Salt is used, not copied. It panics when salt is empty or iterations is not positive.
func NewSecret(password string, salt []byte, iterations int) Secret {
	key, secret := derive(password, salt, iterations)
	key.Wipe()
	return secret
}

// derive is RFC 5802 section 3 up to the keys.
func derive(password string, salt []byte, iterations int) (*Key, Secret) {
	if len(salt) == 0 || iterations < 1 {
		panic("scram: a secret needs a salt and at least one iteration")
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		panic("scram: " + err.Error()) // GODEBUG=fips140=only, and a salt of less than 16 bytes
	}
	defer clear(salted)
	key := Key(sign(salted, []byte("Client Key")))
	return &key, Secret{
		Iterations: iterations,
		Salt:       salt,
		StoredKey:  sha256.Sum256(key[:]),
		ServerKey:  sign(salted, []byte("Server Key")),
	}
}

// MockSecret makes up a secret for a user that has none, to be used in a doomed exchange. It is the same whenever key and
// user are, as the secret of a role would be; all proxies of a fleet must have the same key, of 16 random bytes at the least,
// or salts that differ between them tell who does not exist. Iterations should be the servers' scram_iterations. It has the
// salt of a secret that PostgreSQL made, and keys that belong to no password.
func MockSecret(key []byte, user string, iterations int) Secret {
	seed := sign(key, []byte(user))
	defer clear(seed[:])
	salt, rest := seed[:mockSalt], seed[mockSalt:] // the rest is never shown, so the keys cannot be computed from the salt
	return Secret{
		Iterations: iterations,
		Salt:       append([]byte(nil), salt...),
		StoredKey:  sign(rest, []byte("StoredKey")),
		ServerKey:  sign(rest, []byte("ServerKey")),
	}
}

// Equal reports whether the two are the same secret. Its time depends on the length of the salts alone.
func (s Secret) Equal(other Secret) bool {
	same := subtle.ConstantTimeCompare(s.Salt, other.Salt)
	same &= subtle.ConstantTimeCompare(s.StoredKey[:], other.StoredKey[:])
	same &= subtle.ConstantTimeCompare(s.ServerKey[:], other.ServerKey[:])
	return same == 1 && s.Iterations == other.Iterations
}

// String returns the iteration count.
func (s Secret) String() string {
	return fmt.Sprintf("SCRAM secret iterations=%d [redacted]", s.Iterations)
}

// Format writes what String returns for every verb that asks, %#v too. It makes Secret a fmt.Formatter.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue keeps salt and keys out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// wipe overwrites the keys.
func (s *Secret) wipe() {
	clear(s.StoredKey[:])
	clear(s.ServerKey[:])
}

// sign is HMAC-SHA-256.
func sign(key, message []byte) (mac [32]byte) {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	h.Sum(mac[:0])
	return mac
}
