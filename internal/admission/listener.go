package admission

import (
	"context"
	"net"
	"net/netip"
)

// Aside returns a gate for a listener beside those for clients, such as ACME's challenges or the admin listener: few who mean it
// come there, and strangers are to find no descriptors there that clients would lack.
func Aside() *Gate { return New(Limits{Logins: asideInAll, LoginsPerPrefix: asidePerPrefix}) }

const asideInAll, asidePerPrefix = 1024, 256

// Listen returns a listener of those connections of ln that find a place for a login, which each of them holds until it is
// closed. Others are closed at once. The gate must have no limit of handshakes per second.
func (g *Gate) Listen(ln net.Listener) net.Listener { return &listener{ln, g} }

// AddrOf returns the IP address of a as a Gate is told it: IPv4 as such and without zone; the zero Addr where there is none.
func AddrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

type listener struct {
	net.Listener
	gate *Gate
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		visit, err := l.gate.Arrive(context.Background(), AddrOf(conn.RemoteAddr()))
		if err == nil && visit.Late() == nil {
			return &visitor{conn, visit}, nil
		}
		visit.Leave()
		_ = conn.Close()
	}
}

// visitor is a connection with its place.
type visitor struct {
	net.Conn
	visit *Visit
}

// Close gives the place back. It may be called more than once.
func (v *visitor) Close() error {
	defer v.visit.Leave()
	return v.Conn.Close()
}
