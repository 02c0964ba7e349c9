// Package scram speaks SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL does, from both sides, for a proxy that has roles'
// stored secrets and never a password. A client's proof yields its ClientKey, and with that the proxy logs in elsewhere:
//
//	front := scram.NewServer(secret, false, ownHash)
//	defer front.Wipe()
//	challenge, err := front.First(mechanism, clientFirst)
//	key, err := front.Final(clientFinal)
//	defer key.Wipe()
//
//	back := scram.NewClient(key, secret, serverHash)
//	defer back.Wipe()
//	response, err := back.Final(serverFirst) // the answer to back.First()
//	err = back.Verify(serverFinal)
//	verifier := front.ServerFinal() // now the client may know
//
// A Secret is what pg_authid.rolpassword holds; MockSecret stands in where a role has none, and makes an exchange that looks
// and fails like a wrong password. EndPoint gives the hashes that SCRAM-SHA-256-PLUS binds to.
//
// There is no connection, clock or log here: messages come and go as the data of the SASL messages, without their headers.
// Passwords are not known either, so neither SASLprep nor PBKDF2 takes part: each side of an exchange costs two HMACs.
// Keys are overwritten once they have served. What crypto/hmac keeps inside is left to the garbage collector.
//
// Read server.go for the side that clients talk to, client.go for the side that talks to servers, secret.go and binding.go
// for what both need, message.go for the grammar, errors.go for what can go wrong.
package scram
