// Package e2e holds the end-to-end tests: the built program with a configuration file, in front of real PostgreSQL
// servers, used by real clients. There is nothing in it but tests.
//
// Read harness_test.go for what every test stands on: the program, the servers, the clients. Each other file is one
// promise of the README. The scripts beside install what the tests need (install.sh) and run them (test.sh).
package e2e
