#!/bin/sh
# Makes every fault for as long as it takes, those of crowds at their full size too (which the race detector does not allow), then a
# random sequence of faults, and measures what docs/failover.md tells. FAULT is the number of one fault, to make that alone; SEED and
# STEPS are those of a sequence, as it has printed them.
set -eu
cd "$(dirname "$0")/../.."
. internal/e2e/environment.sh
chaos() { go test -tags chaos -count=1 -timeout 3h -v "$@" ./internal/e2e; }
sequence() { PGREPLICAPROXY_SEED="$1" PGREPLICAPROXY_STEPS="${STEPS:-200}" chaos -race -run '^TestFaultSequence$'; }
if [ -n "${FAULT:-}" ]; then
	chaos -race -run "^Test(Fault|Crowd)${FAULT}"
	chaos -run "^TestCrowd${FAULT}"
elif [ -n "${SEED:-}" ]; then
	sequence "$SEED"
else
	chaos -race -run '^Test(Witness|Interleaved|Fault[0-9]|Crowd)'
	chaos -run '^TestCrowd'
	sequence "$(date +%s)"
	chaos -run '^TestFigures$'
fi
