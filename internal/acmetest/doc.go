// Package acmetest runs a real ACME server, Pebble, inside a test, with a DNS server beside it that has an address for every
// name and takes dynamic updates. Nothing leaves loopback.
//
// What a test can do to it stands in server.go: stop it and bring it back, hold a request in the middle, ask for renewals.
package acmetest
