//go:build chaos

package e2e

// chaos makes the tests of faults take their time: more rounds, and what needs minutes.
const chaos = true
