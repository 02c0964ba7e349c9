package relay_test

import (
	"crypto/tls"
	"errors"
	"flag"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/wire"
)

// peer is the far end of a leg: what the client or the server holds.
type peer struct {
	net.Conn          // with TLS where the leg has it
	raw      net.Conn // the socket itself
	t        testing.TB
}

// strict is the socket below a peer's TLS. It makes an end without close_notify an error, which crypto/tls lets pass
// between two records.
type strict struct{ net.Conn }

var errNoCloseNotify = errors.New("the connection ended without close_notify")

func (s strict) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errNoCloseNotify
	}
	return n, err
}

func (p *peer) deadline(d time.Duration) {
	if err := p.raw.SetDeadline(time.Now().Add(d)); err != nil {
		p.t.Error(err)
	}
}

// forever lifts the deadline, for benchmarks.
func (p *peer) forever() {
	if err := p.raw.SetDeadline(time.Time{}); err != nil {
		p.t.Error(err)
	}
}

func (p *peer) write(s string) {
	p.t.Helper()
	if s == "" {
		return
	}
	if _, err := io.WriteString(p, s); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// expect reads exactly want.
func (p *peer) expect(want string) {
	p.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(p, got); err != nil || string(got) != want {
		p.t.Fatalf("got %.100q, %v, want %.100q", got[:n], err, want)
	}
}

// rest reads until the connection ends. The error is nil for a clean end, which for TLS is one with close_notify.
func (p *peer) rest() (string, error) {
	b, err := io.ReadAll(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Helper()
		p.t.Fatal("the connection was not closed")
	}
	return string(b), err
}

// expectEnd reads want and then the clean end of the connection.
func (p *peer) expectEnd(want string) {
	p.t.Helper()
	if got, err := p.rest(); got != want || err != nil {
		p.t.Errorf("got %.100q, %v at the end, want %.100q and EOF", got, err, want)
	}
}

// closeWrite ends the sending half as a program does that has sent everything.
func (p *peer) closeWrite() {
	p.t.Helper()
	var err error
	if conn, ok := p.Conn.(*tls.Conn); ok {
		err = conn.CloseWrite()
		p.deadline(patience) // CloseWrite of tls leaves a deadline behind
	}
	if err = errors.Join(err, p.raw.(interface{ CloseWrite() error }).CloseWrite()); err != nil {
		p.t.Errorf("close the sending half: %v", err)
	}
}

// reset closes the socket with RST.
func (p *peer) reset() {
	_ = p.raw.(*net.TCPConn).SetLinger(0)
	_ = p.raw.Close()
}

// message is one message as it stands on the wire.
func message(messageType byte, body string) string {
	return string(wire.Message{Type: messageType, Body: []byte(body)}.Append(nil))
}

// ready is a ReadyForQuery with the transaction status.
func ready(status string) string { return message('Z', status) }

var seedFlag = flag.Uint64("seed", 0, "seed of the random streams, 0 for a new one")

// random returns the test's source of random numbers and tells its seed.
func random(t testing.TB) *mathrand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = mathrand.Uint64()
	}
	t.Logf("to repeat this: -seed %d", seed)
	return mathrand.New(mathrand.NewPCG(seed, 0))
}
