//go:build !linux

package socket

import (
	"net"
	"time"
)

// setUserTimeout does nothing where the system has no TCP_USER_TIMEOUT; keepalive alone must do there.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
