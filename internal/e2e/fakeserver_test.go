package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/wire"
)

// fakeServer is a server on loopback that the program takes for a real one, because the monitor's sessions are passed on
// to one. Every other session is played by a script: of a server that misbehaves, or of somebody in its place.
type fakeServer struct {
	address  string
	real     string
	tls      *tls.Config // nil for a server without TLS
	play     func(*fakeSession)
	sessions atomic.Int64 // played so far
	cancels  atomic.Int64 // CancelRequests so far

	// ambush, when it is set, gets every new connection from its first byte on, the monitor's too: whose it is shows only
	// in the startup packet.
	ambush   atomic.Pointer[func(net.Conn)]
	ambushed atomic.Int64 // connections that it got

	mu    sync.Mutex
	conns []net.Conn
	work  sync.WaitGroup
}

// startFake starts a fake in front of real until the end of the test.
func startFake(t *testing.T, real *pgcluster.Server, play func(*fakeSession)) *fakeServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{address: listener.Addr().String(), real: serverAddress(real), play: play}
	f.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			f.keep(conn)
			f.work.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		f.mu.Lock()
		for _, conn := range f.conns {
			_ = conn.Close()
		}
		f.mu.Unlock()
		f.work.Wait()
	})
	return f
}

// startFakeTLS starts a fake with TLS and a certificate of the tests' authority.
func startFakeTLS(t *testing.T, real *pgcluster.Server, play func(*fakeSession)) *fakeServer {
	t.Helper()
	pair, err := tls.X509KeyPair(authority().issue("fake.test"))
	if err != nil {
		t.Fatal(err)
	}
	f := startFake(t, real, play)
	f.tls = &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"postgresql"}}
	return f
}

// strangerUser is the role as which the program tries whether a server lets everybody in.
const strangerUser = "pgreplicaproxy_stranger"

// serverAddress is where a server of a cluster listens.
func serverAddress(s *pgcluster.Server) string { return net.JoinHostPort(s.Host, fmt.Sprint(s.Port)) }

// keep notes a connection that the end of the test is to close.
func (f *fakeServer) keep(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, conn)
}

// setAmbush hands every connection from now on to script.
func (f *fakeServer) setAmbush(script func(net.Conn)) { f.ambush.Store(&script) }

func (f *fakeServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience)) // for a program that fails the test
	if script := f.ambush.Load(); script != nil {
		f.ambushed.Add(1)
		(*script)(conn)
		return
	}
	opening, err := wire.ReadOpening(conn)
	if err == nil && opening.Kind == wire.KindSSL && f.tls != nil {
		if _, err := conn.Write([]byte{'S'}); err != nil {
			return
		}
		conn = tls.Server(conn, f.tls)
		opening, err = wire.ReadOpening(conn)
	}
	switch {
	case err == nil && opening.Kind == wire.KindCancel:
		f.cancels.Add(1)
	case err != nil || opening.Kind != wire.KindStartup:
	case opening.Startup.User() == monitorUser, opening.Startup.User() == strangerUser:
		_ = conn.SetDeadline(time.Time{})
		f.forward(conn, opening.Startup)
	default:
		f.sessions.Add(1)
		f.play(&fakeSession{Conn: conn, startup: opening.Startup, reader: wire.NewReader(conn)})
	}
}

// forward passes a session on to the real server.
func (f *fakeServer) forward(conn net.Conn, startup wire.Startup) {
	server, err := net.Dial("tcp", f.real)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	f.keep(server)
	packet, _ := startup.AppendBinary(nil)
	if _, err := server.Write(packet); err != nil {
		return
	}
	f.work.Go(func() {
		_, _ = io.Copy(server, conn)
		_ = server.Close()
	})
	_, _ = io.Copy(conn, server)
}

// fakeSession is the server's side of one session, behind its startup packet. Its end closes the connection.
type fakeSession struct {
	net.Conn
	startup wire.Startup
	reader  *wire.Reader
}

// say sends messages, or what looks like them, in one piece. A connection that is gone ends the script by itself.
func (s *fakeSession) say(messages ...string) {
	_, _ = io.WriteString(s, strings.Join(messages, ""))
}

// next returns the client's next message, the zero one at the end.
func (s *fakeSession) next() wire.Message {
	m, _ := s.reader.Next(1 << 20)
	return m
}

// hold says nothing until the other side ends the connection.
func (s *fakeSession) hold() { _, _ = io.Copy(io.Discard, s) }

// message is a message as it stands on the wire.
func message(kind byte, body string) string { return header(kind, uint32(len(body)+4)) + body }

// header is that of a message which claims a length.
func header(kind byte, length uint32) string { return string([]byte{kind}) + word(length) }

// word is a number as the protocol writes it.
func word(n uint32) string {
	return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// authRequest is an Authentication message.
func authRequest(code uint32, data string) string { return message('R', word(code)+data) }

// Messages of a server.
var (
	authOK        = authRequest(0, "")
	askForSCRAM   = authRequest(10, "SCRAM-SHA-256\x00\x00")
	readyForQuery = message('Z', "I")
	keyData       = message('K', "\x00\x00\x00\x2a\x01\x02\x03\x04")
)

// errorMessage is an ErrorResponse with an SQLSTATE and a text.
func errorMessage(code, text string) string {
	return message('E', "SFATAL\x00VFATAL\x00C"+code+"\x00M"+text+"\x00\x00")
}

// backend is a server as a configuration names it; weight 0 is the default.
type backend struct {
	name, address string
	weight        int
}

// backendsHCL is a cluster of these servers, with lines added to its block.
func backendsHCL(lines []string, backends ...backend) string {
	var b strings.Builder
	b.WriteString("cluster \"main\" {\n  monitor {\n    password = file(\"monitor.password\")\n    interval = \"200ms\"\n  }\n")
	for _, line := range prompt(lines) {
		b.WriteString("  " + line + "\n")
	}
	for _, s := range backends {
		fmt.Fprintf(&b, "  backend %q {\n    address = %q\n    weight = %d\n  }\n", s.name, s.address, max(1, s.weight))
	}
	b.WriteString("}\n")
	return b.String()
}
