package tlsfront

import (
	"context"
	"crypto/tls"
	"io"
	"slices"
	"testing"
)

// Not a byte behind the opening packet is read: it is there for whoever takes the client over.
func TestReadsNothingBehindTheOpening(t *testing.T) {
	const marker = "Q\x00\x00\x00\x0dselect 1\x00"
	for _, test := range []struct {
		name   string
		open   func(*peer) *peer
		packet string
	}{
		{"clear", inClear, startup(3, 0, parameters)},
		{"SSLRequest", bySSLRequest, startup(3, 0, parameters)},
		{"direct TLS", byDirectTLS, startup(3, 0, parameters)},
		{"optimistic ClientHello", byOptimisticHello, startup(3, 0, parameters)},
		{"CancelRequest", inClear, cancelRequest},
		{"CancelRequest inside TLS", bySSLRequest, cancelRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			behind := make(chan string, 1)
			f := startFront(t, loopback(t), Config{PlaintextAllowed: true}, func(_ context.Context, c *Client) {
				defer c.Conn.Close()
				got := make([]byte, len(marker))
				n, _ := io.ReadFull(c.Conn, got)
				behind <- string(got[:n])
			})
			p := test.open(f.dial(t))
			p.send(test.packet, marker)
			p.wantSilence()
			f.stop(t)
			select {
			case got := <-behind:
				if got != marker {
					t.Errorf("behind the opening: %q, want %q", got, marker)
				}
			default:
				t.Error("not handed over")
			}
		})
	}
}

// The leaf and the server name are those of this very connection.
func TestClientTLS(t *testing.T) {
	var pairs []CertificateFile
	for _, name := range []string{"a.example.com", "b.example.com"} {
		certPEM, keyPEM := pemPair(t, "ecdsa", names(name))
		pairs = append(pairs, writePair(t, t.TempDir(), name, certPEM, keyPEM))
	}
	files, err := LoadCertificateFiles(pairs)
	if err != nil {
		t.Fatal(err)
	}
	f := startFront(t, loopback(t), Config{TLS: ServerConfig(files.GetCertificate, 0)}, nil)
	for i, test := range []struct {
		serverName, common string
		version            uint16
	}{
		{"b.example.com", "b.example.com", tls.VersionTLS13},
		{"a.example.com", "a.example.com", tls.VersionTLS12},
		{"c.example.com", "a.example.com", tls.VersionTLS13},
		{"", "a.example.com", tls.VersionTLS12},
	} {
		p := f.dial(t)
		p.send(sslRequest)
		p.want("S")
		config := careless(test.serverName)
		config.MaxVersion = test.version
		inside := p.startTLS(config)
		inside.send(startup(3, 0, parameters))
		inside.refusal() // closed by the handler, so recorded by now
		f.mu.Lock()
		c := f.clients[i]
		f.mu.Unlock()

		presented := inside.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		if !slices.Equal(c.Leaf.Raw, presented.Raw) || c.Leaf.Subject.CommonName != test.common {
			t.Errorf("name %q: leaf of %q, presented %q, want %q", test.serverName, c.Leaf.Subject.CommonName, presented.Subject.CommonName, test.common)
		}
		if c.TLS.ServerName != test.serverName || c.TLS.Version != test.version || !c.TLS.HandshakeComplete {
			t.Errorf("state %q, version %x, complete %v, want %q, %x", c.TLS.ServerName, c.TLS.Version, c.TLS.HandshakeComplete, test.serverName, test.version)
		}
		if _, ok := c.Conn.(*tls.Conn); !ok {
			t.Errorf("connection is a %T, want *tls.Conn", c.Conn)
		}
	}
}
