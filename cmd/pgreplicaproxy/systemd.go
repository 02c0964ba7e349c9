package main

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager tells systemd how the program is (sd_notify(3)). Where nobody wants to know, nothing is told.
type serviceManager struct {
	log *slog.Logger
}

// tell sends lines of the form NAME=VALUE. That they do not arrive is no reason to end sessions.
func (m serviceManager) tell(lines string) {
	if _, err := daemon.SdNotify(false, lines); err != nil {
		m.log.Warn("service manager not notified", "err", err)
	}
}

// ready says that clients are served.
func (m serviceManager) ready() { m.tell("READY=1\nSTATUS=Serving clients.\n") }
