#!/bin/sh
# After installation and upgrade. The service is neither enabled nor started: its configuration has to be written first. One
# that runs hands its listeners to the new version, and its sessions go on.
set -e
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	if systemctl --quiet is-active pgreplicaproxy.service; then
		systemctl kill --kill-who=main --signal=SIGUSR2 pgreplicaproxy.service
	fi
fi
