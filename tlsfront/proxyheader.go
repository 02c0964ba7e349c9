package tlsfront

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"github.com/replicon/pgreplicaproxy/internal/admission"
)

// Peers are connections by where they come from. The zero value holds none.
type Peers struct {
	// Networks hold the IP addresses of peers, IPv4 ones as such. None has host bits.
	Networks []netip.Prefix
	// Unix takes in all peers over unix sockets.
	Unix bool
}

// Contain reports whether a peer is one of p.
func (p Peers) Contain(peer net.Addr) bool {
	if peer.Network() == "unix" {
		return p.Unix
	}
	ip := admission.AddrOf(peer)
	for _, network := range p.Networks {
		if network.Contains(ip) {
			return true
		}
	}
	return false
}

// Sizes of PROXY headers, from the specification (proxy-protocol.txt of HAProxy, 2.1 and 2.2).
const (
	proxyLineMax   = 107 // version 1, with its CRLF
	proxyPrefixLen = 16  // version 2, before addresses and TLVs
	proxyNameLen   = 5   // enough to tell the versions and everything else apart
)

var errNoProxyHeader = errors.New("no PROXY header from a peer that proxy_protocol_from names")

// proxyAddresses reads one PROXY header of version 1 or 2 from r and not a byte more. It returns the two ends of the
// connection that the proxy speaks for, both nil for one of its own, such as a health check (LOCAL, UNKNOWN).
func proxyAddresses(r io.Reader) (source, destination net.Addr, err error) {
	raw, err := readProxyHeader(r)
	if err != nil {
		return nil, nil, err
	}
	header, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(raw), len(raw)))
	switch {
	case err != nil:
		return nil, nil, err
	case header.Command.IsLocal():
		return nil, nil, nil
	case !header.TransportProtocol.IsStream():
		return nil, nil, fmt.Errorf("PROXY header for transport 0x%02x, which is no stream", byte(header.TransportProtocol))
	}
	return header.SourceAddr, header.DestinationAddr, nil
}

// readProxyHeader reads the bytes of one header, as far as its version and its length can be told.
func readProxyHeader(r io.Reader) ([]byte, error) {
	header := make([]byte, proxyNameLen, 256)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(header, proxyproto.SIGV1):
		for len(header) < proxyLineMax && header[len(header)-1] != '\n' {
			var err error
			if header, err = appendRead(header, r, 1); err != nil {
				return nil, err
			}
		}
		return header, nil
	case !bytes.HasPrefix(proxyproto.SIGV2, header):
		return nil, errNoProxyHeader
	}
	header, err := appendRead(header, r, proxyPrefixLen-proxyNameLen)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint16(header[proxyPrefixLen-2:])
	if !bytes.HasPrefix(header, proxyproto.SIGV2) {
		return nil, errNoProxyHeader
	}
	if size > proxyproto.MaxV2HeaderSize {
		return nil, fmt.Errorf("PROXY header of %d bytes: at most %d are taken", size, proxyproto.MaxV2HeaderSize)
	}
	return appendRead(header, r, int(size))
}

// appendRead appends the next n bytes of r to b.
func appendRead(b []byte, r io.Reader, n int) ([]byte, error) {
	b = append(b, make([]byte, n)...)
	_, err := io.ReadFull(r, b[len(b)-n:])
	return b, err
}
