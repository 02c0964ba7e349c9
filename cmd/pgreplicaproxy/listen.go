package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// listen binds one address. A socket file that a dead process left behind is replaced; one that somebody serves is not.
func listen(l listenerConfig) (net.Listener, error) {
	ln, err := net.Listen(l.Network, l.Address)
	if err != nil && l.Network == "unix" && errors.Is(err, syscall.EADDRINUSE) && abandoned(l.Address) {
		if err := os.Remove(l.Address); err != nil {
			return nil, fmt.Errorf("remove abandoned socket: %w", err)
		}
		ln, err = net.Listen(l.Network, l.Address)
	}
	if err != nil {
		return nil, explainListen(l, err)
	}
	if l.Network == "unix" {
		// As PostgreSQL's unix_socket_permissions: who may connect is the server's question, and the directory's.
		mode := os.FileMode(0o777)
		if l.Private {
			mode = 0o600
		}
		if err := os.Chmod(l.Address, mode); err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("listen on %s: %w", l.Address, err)
		}
	}
	return ln, nil
}

// abandoned reports whether nobody answers at a socket file.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// explainListen adds the fix to an error of net.Listen where there is a common one.
func explainListen(l listenerConfig, err error) error {
	fix := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		fix = " (another program listens there: stop it, or choose another address in the listen block)"
	case errors.Is(err, syscall.EACCES):
		fix = " (not allowed: choose a port above 1023, or grant CAP_NET_BIND_SERVICE)"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		fix = " (no interface of this machine has the address)"
	}
	return fmt.Errorf("listen on %s: %w%s", l.Address, err, fix)
}
