package backends

import (
	"io"
	"net"

	"github.com/pires/go-proxyproto"
)

// Origin is on whose behalf a server is dialled: a client, and what it connected to. The zero value is the proxy itself.
type Origin struct {
	Source, Destination net.Addr
}

// announce writes a PROXY header of version 2. It says LOCAL where the proxy dials for itself, and where the two addresses
// are not of one kind, which the header cannot tell.
func (o Origin) announce(w io.Writer) error {
	_, err := proxyproto.HeaderProxyFromAddrs(2, o.Source, o.Destination).WriteTo(w)
	return err
}
