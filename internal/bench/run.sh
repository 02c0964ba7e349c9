#!/bin/sh
# Runs the benchmark; arguments are its own. As root it runs in a network namespace of its own with cubic, Linux's default, as
# TCP's congestion control, whatever the machine has: one that paces what it sends (bbr) sets a timer for each burst, on the
# loopback interface too, and what that costs is counted as the proxy's that happens to run.
set -eu
cd "$(dirname "$0")/../.."
internal/bench/install.sh
go build -o bin/bench ./internal/bench

if [ "$(id -u)" = 0 ] && unshare --net true 2>/dev/null; then
	# shellcheck disable=SC2016
	exec unshare --net sh -c '
		ip link set lo up
		for to in 127.0.0.0/8 127.0.0.1; do
			ip route replace local "$to" dev lo table local congctl cubic
		done
		exec "$@"' sh bin/bench "$@"
fi
echo "Not in a network namespace of its own, which takes root: the report tells the congestion control." >&2
exec bin/bench "$@"
