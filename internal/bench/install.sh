#!/bin/sh
# Installs the peers that the benchmark measures against, PgBouncer and HAProxy, and ip for its network namespace, where they
# are missing: with apt-get, as root. It says what it installs, and does nothing when they are there. The peers' services are
# neither started nor enabled.
set -eu
PATH="$PATH:/usr/sbin"

missing=""
for program in pgbouncer haproxy; do
	command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
services=$missing
if [ "$(id -u)" = 0 ] && ! command -v ip >/dev/null 2>&1; then missing="$missing iproute2"; fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "Missing:$missing. Install it (Debian: apt-get install$missing) and try again." >&2
	exit 1
fi
echo "Installing with apt-get:$missing"
# The packages would start their services: this file forbids it, for as long as the installation takes (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
for service in $services; do
	update-rc.d "$service" disable >/dev/null 2>&1 || echo "The service $service may start with the system." >&2
done
