//go:build race

package e2e

// raceFlag builds the program like the tests.
var raceFlag = []string{"-race"}
