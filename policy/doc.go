// Package policy decides where a session goes: a pure function from the routes of the configuration, a client's request
// and what is known of the servers to one decision.
//
// It has no clock, no lock, no randomness of its own, no input or output and no logger; it imports the standard library
// alone. That is what lets its tests try every mix of roles. The domain words are declared here, and here only: [Role],
// [Backend], [Request], [Decision].
//
// What it leaves alone: how a role is found out (package backends), how a decision is carried out (internal/proxy).
//
// Read role.go for the words, route.go for what a route may say, decide.go for the decision, access.go for who may come in.
package policy
