#!/bin/sh
# After installation and upgrade. The service is neither enabled nor started: its configuration has to be written first.
set -e
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload
fi
