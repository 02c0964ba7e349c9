#!/bin/sh
# Before removal, which is "remove" with dpkg and 0 with rpm; not before an upgrade.
set -e
case "${1:-}" in
remove | 0)
	if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
		systemctl --quiet disable --now pgreplicaproxy.socket pgreplicaproxy.service
	fi
	;;
esac
