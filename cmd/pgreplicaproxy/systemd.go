package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager tells systemd how the program is (sd_notify(3)). Where nobody wants to know, nothing is told.
type serviceManager struct {
	log     *slog.Logger
	timeout time.Duration // of one notification
}

// notifyTimeout is how long systemd may be busy with other things.
const notifyTimeout = 10 * time.Second

// tell sends lines of the form NAME=VALUE. That they do not arrive is no reason to end sessions, and that nobody reads them none
// to wait for ever.
func (m serviceManager) tell(lines string) {
	if err := m.send(lines); err != nil {
		m.log.Warn("service manager not notified", "err", err)
	}
}

// send is daemon.SdNotify with a timeout: a socket that nobody reads is soon full.
func (m serviceManager) send(lines string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(m.timeout))
	_, err = conn.Write([]byte(lines))
	return errors.Join(err, conn.Close())
}

// ready says that clients are served: after the start, after a reload, and in a successor.
func (m serviceManager) ready() { m.tell("READY=1\nSTATUS=Serving clients.\n") }

// reloading says that the configuration is read again; ready follows, whatever became of it. The time tells systemd which of
// its requests is meant (Type=notify-reload).
func (m serviceManager) reloading() { m.tell("RELOADING=1\n" + daemon.SdNotifyMonotonicUsec()) }

// stopping says that sessions have so long to finish, and asks for the patience.
func (m serviceManager) stopping(drain time.Duration) {
	const ending = 10 * time.Second // for what is left then
	m.tell(fmt.Sprintf("STOPPING=1\nSTATUS=Waiting for sessions to finish.\nEXTEND_TIMEOUT_USEC=%d\n", (drain + ending).Microseconds()))
}

// replaced says that another process is the service from now on.
func (m serviceManager) replaced(pid int) { m.tell(fmt.Sprintf("MAINPID=%d\n", pid)) }

// watch keeps systemd's watchdog away until ctx ends, where there is one. alive returns as long as the program is: one that
// does not return is what the watchdog waits for.
func (m serviceManager) watch(ctx context.Context, alive func()) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("no watchdog", "err", err)
	}
	if interval == 0 {
		return
	}
	ticks := time.NewTicker(interval / 3)
	defer ticks.Stop()
	for {
		alive()
		m.tell("WATCHDOG=1\n")
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}
