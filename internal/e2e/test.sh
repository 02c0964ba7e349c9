#!/bin/sh
# Runs the tests of the packages named, race detector on, and prints how many ran. In CI a skipped test is a failure.
set -eu
cd "$(dirname "$0")/../.."
. internal/e2e/environment.sh
noskip=""
[ -z "${CI:-}" ] || noskip="-noskip"
# The second run is of the relay that other systems have.
# shellcheck disable=SC2086
{
	go test -race -count=1 -timeout 40m -p 2 -json "$@"
	go test -race -count=1 -timeout 40m -json -tags relay_goroutines ./internal/relay
} | go run ./internal/testreport $noskip
