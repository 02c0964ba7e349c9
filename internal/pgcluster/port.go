package pgcluster

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are taken from these, which are below those that the system gives to outgoing connections
// (ip_local_port_range starts at 32768): a server that is stopped for a while finds its port free again.
const lowPort, topPort = 12000, 32000

// maxPortTries bounds how often a server looks for another port because someone was quicker.
const maxPortTries = 8

// errPortTaken says that a server could not listen on its port.
var errPortTaken = errors.New("port is taken")

// freePort returns a port on which nobody listens. Another process may take it before the server does, so the caller
// must be ready to try again.
func freePort() (int, error) {
	for range 1000 {
		port := lowPort + rand.IntN(topPort-lowPort)
		if canListen(port) {
			return port, nil
		}
	}
	return 0, errors.New("find a free port: too many are taken")
}

// canListen tells whether a server could listen on the port, on each loopback address.
func canListen(port int) bool {
	for _, address := range listenAddresses() {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			return false
		}
		_ = listener.Close()
	}
	return true
}
