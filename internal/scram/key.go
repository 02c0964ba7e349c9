package scram

import (
	"fmt"
	"io"
	"log/slog"
)

// Key is a ClientKey: with it, and without the password, one logs in wherever the role has the same secret. Keep it for the
// login that it was recovered for and no longer. It prints as "[redacted]", except in an unexported field of another struct,
// where the fmt package calls no methods: keep a *Key there, which %v writes as an address.
type Key [32]byte

const redacted = "[redacted]"

// Wipe overwrites the key. A nil key is fine.
func (k *Key) Wipe() {
	if k != nil {
		clear(k[:])
	}
}

// String returns "[redacted]".
func (k Key) String() string { return redacted }

// Format writes "[redacted]" for every verb that asks, %#v too. It makes Key a fmt.Formatter.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue keeps the key out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText keeps the key out of JSON and the like.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
