package scram

import "errors"

// What a Server refuses. Each comment has the SQLSTATE to answer with; no error holds anything of the messages themselves.
var (
	// ErrProtocol is a message that breaks the rules, or asks for what PostgreSQL does not have, such as another
	// mechanism, an authorization identity or a mandatory extension: 08P01. PostgreSQL has 0A000 for the last two.
	ErrProtocol = errors.New("malformed SCRAM message")
	// ErrNegotiation is a client that can bind to the channel and was made to believe that the server cannot: 28000.
	// Somebody in between may have removed SCRAM-SHA-256-PLUS from the offer.
	ErrNegotiation = errors.New("SCRAM channel binding negotiation error")
	// ErrChannelBinding is a client that is bound to another certificate: 28000.
	ErrChannelBinding = errors.New("SCRAM channel binding check failed")
	// ErrProof is a wrong password, or a doomed exchange, which is the same to everyone: 28P01.
	ErrProof = errors.New("SCRAM proof does not match")
)

// What a Client refuses of a server.
var (
	// ErrSecretChanged is a server with another secret of the role than the one given, because the password has been
	// changed. The key is of no use there, and the secret has to be fetched anew: 57P03, since a retry may succeed.
	ErrSecretChanged = errors.New("server has another SCRAM secret for the role")
	// ErrServerMessage is a message that breaks the rules.
	ErrServerMessage = errors.New("malformed SCRAM message from the server")
	// ErrServerRefused is a server-final-message with an error in it. PostgreSQL sends an ErrorResponse instead.
	ErrServerRefused = errors.New("server refused the SCRAM exchange")
	// ErrServerSignature is a server that does not know the secret: an impostor.
	ErrServerSignature = errors.New("server failed to prove that it knows the SCRAM secret")
)

// ErrSecret is a text that is no SCRAM-SHA-256 secret: an md5 one, for example.
var ErrSecret = errors.New("not a SCRAM-SHA-256 secret")

// errOrder is a mistake of the caller: a step of an exchange that is not its turn, or after Wipe.
var errOrder = errors.New("step of a SCRAM exchange out of order")
