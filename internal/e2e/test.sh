#!/bin/sh
# Runs the tests of the packages named, race detector on, and prints how many ran. In CI a skipped test is a failure.
set -eu
cd "$(dirname "$0")/../.."
. internal/e2e/environment.sh
noskip=""
[ -z "${CI:-}" ] || noskip="-noskip"
packages="$(go list "$@")"
run() { go test -race -count=1 -timeout 40m -p 2 -json "$@"; }
# The end-to-end tests have the processors for themselves: they are about what servers and clients do in time. The last run is of
# the relay that other systems have.
# shellcheck disable=SC2086
{
	set +e # testreport tells what failed
	for chosen in -v -e; do
		list="$(printf '%s\n' $packages | grep $chosen '/internal/e2e$')"
		[ -z "$list" ] || run $list
	done
	run -tags relay_goroutines ./internal/relay
} | go run ./internal/testreport $noskip
