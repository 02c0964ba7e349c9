#!/bin/sh
# Makes every fault for as long as it takes, or the one whose number is given, then a random sequence of faults, and measures
# what docs/failover.md tells. Whatever fails can be repeated: FAULT=07, or SEED and STEPS as the sequence printed them.
set -eu
cd "$(dirname "$0")/../.."
. internal/e2e/environment.sh
chaos() { go test -tags chaos -count=1 -timeout 3h -v "$@" ./internal/e2e; }
if [ -n "${FAULT:-}" ]; then
	chaos -race -run "^TestFault${FAULT}"
	exit
fi
if [ -z "${SEED:-}" ]; then
	chaos -race -run '^TestFault[0-9]'
	SEED="$(date +%s)"
fi
PGREPLICAPROXY_SEED="$SEED" PGREPLICAPROXY_STEPS="${STEPS:-200}" chaos -race -run '^TestFaultSequence$'
chaos -run '^TestFigures$'
