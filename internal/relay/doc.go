// Package relay carries a session after its login: bytes from client to server and back, unchanged, until one side ends
// or the program ends the session with one error message.
//
// It owns both connections from [Start] on, follows the message boundaries of both directions, counts bytes, passes
// half-closes and back-pressure on, and injects at most one FATAL ErrorResponse, between two of the server's messages.
// It changes, adds and removes nothing else, and knows nothing of routes, roles or logins.
//
// [Start], [Relay.End], [Relay.Stats] and the calls of Config.Lost and Config.Ended are the border behind which the way of relaying may
// change. There is no call that blocks for the length of a session, so a relay need not spend a goroutine on one.
//
// Read relay.go for the border, then relay_linux.go for a session on an event loop, ending_linux.go for its end and gather_linux.go for
// what saves reads in bulk (the files named goroutines are the other way), then internal/proxy for what leads to it.
package relay
