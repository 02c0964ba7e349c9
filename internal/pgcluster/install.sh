#!/bin/sh
# Installs the PostgreSQL server and psql where they are missing: with apt-get, as root. It says what it installs, and
# does nothing when they are there.
set -eu

have_server() {
	[ -n "${PGREPLICAPROXY_PG_BIN:-}" ] || command -v initdb >/dev/null 2>&1 ||
		ls -d /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb 2>/dev/null | grep -q .
}

missing=""
have_server || missing="postgresql"
command -v psql >/dev/null 2>&1 || missing="$missing postgresql-client"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "Missing:$missing. Install it (Debian: apt-get install $missing) and try again." >&2
	exit 1
fi
echo "Installing with apt-get: $missing"
# The package would create and start a cluster of its own, which nobody here needs: not this time.
setting=/etc/postgresql-common/createcluster.d/pgreplicaproxy.conf
mkdir -p "$(dirname "$setting")"
echo "create_main_cluster = false" >"$setting"
trap 'rm -f "$setting"' EXIT
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
