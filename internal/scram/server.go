package scram

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// stage is how far an exchange has come.
type stage int

const (
	start   stage = iota
	between       // the first messages are exchanged; for a Client also its final one
	proven        // the client's proof was right
	over          // failed, verified or wiped
)

// Server is the server's side of one exchange, the one that clients talk to. It serves once, and one goroutine at a time.
// Wipe it when the login is over, whatever its end.
type Server struct {
	secret  Secret
	doomed  bool
	binding []byte
	nonce   []byte // our part of it

	stage stage
	asked bool // for an initial response, with an empty challenge

	// From the client's first message, and our answer to it.
	header, bare, fullNonce, serverFirst []byte

	signature [32]byte
}

// NewServer returns the server's side of an exchange with a client who has to know the password that secret is of. A doomed
// exchange does the same work and then fails like a wrong password: for users that cannot log in, with MockSecret or with
// their own secret. Binding is what EndPoint returned for the certificate that the client was shown, which is kept, not
// copied; none means that SCRAM-SHA-256-PLUS is not offered, as without TLS.
func NewServer(secret Secret, doomed bool, binding []byte) *Server {
	return &Server{secret: secret, doomed: doomed, binding: binding, nonce: newNonce()}
}

// Mechanisms returns the names to offer, the best first, as PostgreSQL does.
func (s *Server) Mechanisms() []string {
	if len(s.binding) == 0 {
		return []string{mechanismPlain}
	}
	return []string{mechanismPlus, mechanismPlain}
}

// First takes the client's choice of mechanism with the data of its SASLInitialResponse, and returns the data of the
// AuthenticationSASLContinue to answer with. Data is nil when there was no initial response (length -1): then the challenge
// is empty, and First is due again with the data of the SASLResponse to it. The data is not kept. The error is ErrProtocol
// or ErrNegotiation, and ends the exchange.
func (s *Server) First(mechanism string, data []byte) (challenge []byte, err error) {
	if s.stage != start {
		return nil, errOrder
	}
	s.stage = over
	if !slices.Contains(s.Mechanisms(), mechanism) {
		return nil, fmt.Errorf("%w: mechanism that was not offered", ErrProtocol)
	}
	if data == nil && !s.asked {
		s.stage, s.asked = start, true
		return []byte{}, nil
	}
	first, err := parseClientFirst(data)
	if err != nil {
		return nil, err
	}
	switch {
	case first.flag == 'p' && mechanism != mechanismPlus:
		return nil, fmt.Errorf("%w: channel binding with %s", ErrProtocol, mechanismPlain)
	case first.flag != 'p' && mechanism == mechanismPlus:
		return nil, fmt.Errorf("%w: no channel binding with %s", ErrProtocol, mechanismPlus)
	case first.flag == 'y' && len(s.binding) > 0:
		return nil, ErrNegotiation
	}
	s.stage = between
	s.header, s.bare = bytes.Clone(first.header), bytes.Clone(first.bare)
	s.fullNonce = slices.Concat(first.nonce, s.nonce)
	s.serverFirst = s.buildFirst()
	return bytes.Clone(s.serverFirst), nil
}

func (s *Server) buildFirst() []byte {
	message := append([]byte("r="), s.fullNonce...)
	message = append(message, ",s="...)
	message = base64.StdEncoding.AppendEncode(message, s.secret.Salt)
	message = append(message, ",i="...)
	return strconv.AppendInt(message, int64(s.secret.Iterations), 10)
}

// Final takes the data of the client's SASLResponse and returns the ClientKey, which the caller owns and wipes. The data is
// not kept. The error is ErrProtocol, ErrChannelBinding or ErrProof, and ends the exchange. Nothing tells a doomed exchange
// from a wrong proof, nor does the time it takes.
func (s *Server) Final(data []byte) (*Key, error) {
	if s.stage != between {
		return nil, errOrder
	}
	s.stage = over
	final, err := parseClientFinal(data)
	if err != nil {
		return nil, err
	}
	defer clear(final.proof[:])
	if err := s.checkFinal(final); err != nil {
		return nil, err
	}
	message := authMessage(s.bare, s.serverFirst, final.withoutProof)
	s.signature = sign(s.secret.ServerKey[:], message)

	// The proof is ClientKey XOR HMAC(StoredKey, message), and StoredKey is the hash of ClientKey.
	mask := sign(s.secret.StoredKey[:], message)
	defer clear(mask[:])
	key := new(Key)
	subtle.XORBytes(key[:], final.proof[:], mask[:])
	stored := sha256.Sum256(key[:])
	if subtle.ConstantTimeCompare(stored[:], s.secret.StoredKey[:]) != 1 || s.doomed {
		key.Wipe()
		return nil, ErrProof
	}
	s.stage = proven
	return key, nil
}

// checkFinal compares the nonce and the channel binding with those of this exchange.
func (s *Server) checkFinal(final clientFinal) error {
	if subtle.ConstantTimeCompare(final.nonce, s.fullNonce) != 1 {
		return fmt.Errorf("%w: nonce mismatch", ErrProtocol)
	}
	switch {
	case subtle.ConstantTimeCompare(final.binding, encodeBinding(s.header, s.binding)) == 1:
		return nil
	case s.header[0] == 'p':
		return ErrChannelBinding
	default:
		return fmt.Errorf("%w: channel binding that was not negotiated", ErrProtocol)
	}
}

// ServerFinal returns the data of the AuthenticationSASLFinal that ends the exchange. It proves to the client that this side
// knows the secret, so send it once the login has succeeded elsewhere too. It is nil unless Final returned a key, and after
// Wipe.
func (s *Server) ServerFinal() []byte {
	if s.stage != proven {
		return nil
	}
	return base64.StdEncoding.AppendEncode([]byte("v="), s.signature[:])
}

// Wipe overwrites the keys and ends the exchange. It leaves alone the Key that Final returned.
func (s *Server) Wipe() {
	s.stage = over
	s.secret.wipe()
	clear(s.signature[:])
}

// Format writes no secret, for any verb. It makes *Server a fmt.Formatter.
func (s *Server) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "SCRAM server "+redacted) }
