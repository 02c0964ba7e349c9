// Package admission bounds what clients may take, so that strangers can neither fill the program nor guess passwords quickly:
// how many connections may be logging in, how many sessions there may be and of whom, how fast handshakes come, how fast
// failed logins may follow each other, how many cancel requests of strangers reach the servers, and how many lines of
// the log are about those who were refused.
//
// A [Visit] accompanies a connection from accept to its end. Until the client has proven who it is, it holds one of the
// places for logins, and nothing else: a stranger can use up no limit of a user or of a database. Clients that come while
// those places are taken are late: a few of them are received all the same, to be told why they are refused, and because
// a CancelRequest must get through when everything is full.
//
// The package knows addresses, names and a clock, and neither the protocol nor, but for [Gate.Listen], connections. What it
// remembers has a fixed size, whatever the number of addresses that come.
//
// Read limits.go for what can be limited, gate.go for the life of a visit, throttle.go for failed logins, lines.go for
// the log.
package admission
