package scram

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
)

// Client is the client's side of one exchange, with a ClientKey in place of the password. It serves once, and one goroutine
// at a time. Wipe it when the login is over, whatever its end.
type Client struct {
	key     *Key
	secret  Secret
	binding []byte

	stage        stage
	header, bare []byte // First, in two parts
	nonce        []byte // our part of it

	signature [32]byte // the one to expect
}

// NewClient returns the client's side of an exchange with a server that has secret for the role. The key remains the
// caller's, and has to keep until Final. Binding is what EndPoint returned for the certificate that the server showed, which
// is kept, not copied; none means SCRAM-SHA-256 without channel binding, as without TLS or when the server does not offer
// SCRAM-SHA-256-PLUS.
func NewClient(key *Key, secret Secret, binding []byte) *Client {
	c := &Client{key: key, secret: secret, binding: binding, nonce: newNonce(), header: []byte(headerPlain)}
	if len(binding) > 0 {
		c.header = []byte(headerPlus)
	}
	c.bare = append([]byte("n=,r="), c.nonce...)
	return c
}

// Mechanism returns the name for the SASLInitialResponse.
func (c *Client) Mechanism() string {
	if len(c.binding) > 0 {
		return mechanismPlus
	}
	return mechanismPlain
}

// First returns the data of the SASLInitialResponse.
func (c *Client) First() []byte { return append(bytes.Clone(c.header), c.bare...) }

// Final takes the data of the server's AuthenticationSASLContinue and returns the data of the SASLResponse. The data is not
// kept. The error is ErrServerMessage or ErrSecretChanged, and ends the exchange before anything made with the key was sent.
func (c *Client) Final(data []byte) ([]byte, error) {
	if c.stage != start {
		return nil, errOrder
	}
	c.stage = over
	first, err := parseServerFirst(data)
	switch {
	case err != nil:
		return nil, err
	case !bytes.HasPrefix(first.nonce, c.nonce) || len(first.nonce) == len(c.nonce):
		return nil, fmt.Errorf("%w: nonce does not extend ours", ErrServerMessage)
	case first.iterations != c.secret.Iterations || subtle.ConstantTimeCompare(first.salt, c.secret.Salt) != 1:
		return nil, ErrSecretChanged
	}
	final := append([]byte("c="), encodeBinding(c.header, c.binding)...)
	final = append(final, ",r="...)
	final = append(final, first.nonce...)
	message := authMessage(c.bare, data, final)
	c.signature = sign(c.secret.ServerKey[:], message)

	proof := sign(c.secret.StoredKey[:], message)
	defer clear(proof[:])
	subtle.XORBytes(proof[:], proof[:], c.key[:])
	c.stage = between
	final = append(final, ",p="...)
	return base64.StdEncoding.AppendEncode(final, proof[:]), nil
}

// Verify takes the data of the server's AuthenticationSASLFinal, which has to come before AuthenticationOk. The error is
// ErrServerMessage, ErrServerRefused or ErrServerSignature; nil means that the server knows the secret.
func (c *Client) Verify(data []byte) error {
	if c.stage != between {
		return errOrder
	}
	c.stage = over
	signature, err := parseServerFinal(data)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(signature[:], c.signature[:]) != 1 {
		return ErrServerSignature
	}
	return nil
}

// Wipe overwrites the secret's keys and ends the exchange. It leaves alone the Key that the caller gave.
func (c *Client) Wipe() {
	c.stage = over
	c.secret.wipe()
	clear(c.signature[:])
}

// Format writes no secret, for any verb. It makes *Client a fmt.Formatter.
func (c *Client) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "SCRAM client "+redacted) }
