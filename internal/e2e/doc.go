// Package e2e holds the end-to-end tests: the built program with a configuration file, in front of real PostgreSQL
// servers, used by real clients. There is nothing in it but tests.
//
// Read harness_test.go for what every test stands on: the program, the servers, the clients. Each other file is one
// promise of the README, and those that begin with fault the ones of docs/failover.md: read faultrig_test.go, faultload_test.go
// and faultwitness_test.go first. The scripts beside install what the tests need (install.sh) and run them (test.sh).
package e2e
