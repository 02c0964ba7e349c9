package relay_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/relay"
	"github.com/replicon/pgreplicaproxy/internal/socket"
	"github.com/replicon/pgreplicaproxy/wire"
)

// randomMessages makes a stream of about size bytes: mostly short messages, some of no body, some long. None is an ErrorResponse:
// with that as the server's last word a client that closes has lost its server.
func randomMessages(rng *rand.Rand, size int) []byte {
	var stream []byte
	for len(stream) < size {
		body := make([]byte, rng.IntN(100))
		if rng.IntN(20) == 0 {
			body = make([]byte, rng.IntN(100<<10))
		}
		for i := range body {
			body[i] = byte(rng.Uint32())
		}
		messageType := byte(rng.Uint32())
		if messageType == wire.TypeErrorResponse {
			messageType = wire.TypeReadyForQuery
		}
		stream = wire.Message{Type: messageType, Body: body}.Append(stream)
	}
	return stream
}

// writePieces writes stream in pieces of random sizes, from one byte to more than any buffer of the relay.
func writePieces(p *peer, rng *rand.Rand, stream []byte) error {
	for len(stream) > 0 {
		n := min(len(stream), 1+rng.IntN(1<<(1+rng.IntN(17))))
		if _, err := p.Write(stream[:n]); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		stream = stream[n:]
	}
	return nil
}

// readHash reads to the end and fails unless that is want.
func readHash(p *peer, want []byte) error {
	got := sha256.New()
	n, err := io.Copy(got, p)
	if wanted := sha256.Sum256(want); err != nil || [sha256.Size]byte(got.Sum(nil)) != wanted {
		return fmt.Errorf("got %d bytes, %v, want %d others", n, err, len(want))
	}
	return nil
}

// testExact passes random streams both ways at once.
func testExact(t *testing.T, r *rig) {
	rng := random(t)
	toServer, toClient := randomMessages(rng, 3<<20), randomMessages(rng, 3<<20)
	clientPending, serverPending := rng.IntN(64<<10), rng.IntN(64<<10) // in the middle of a message, as a rule
	r.config.Client.Pending = append([]byte(nil), toServer[:clientPending]...)
	r.config.Server.Pending = append([]byte(nil), toClient[:serverPending]...)
	r.start()
	clientRand, serverRand := rand.New(rand.NewPCG(rng.Uint64(), 1)), rand.New(rand.NewPCG(rng.Uint64(), 2))
	serverDone := make(chan error)
	sent := make(chan error)
	go func() {
		err := writePieces(r.client, clientRand, toServer[clientPending:])
		if err == nil {
			r.client.closeWrite()
		}
		sent <- err
	}()
	go func() { serverDone <- readHash(r.server, toServer) }()
	go func() {
		err := writePieces(r.server, serverRand, toClient[serverPending:])
		err = errors.Join(err, <-serverDone) // the client has ended
		r.server.closeWrite()
		sent <- err
	}()
	if err := errors.Join(readHash(r.client, toClient), <-sent, <-sent); err != nil {
		t.Fatal(err)
	}
	r.wantResult(relay.Result{
		Cause: relay.ClientClosed,
		Stats: relay.Stats{ToServer: uint64(len(toServer)), ToClient: uint64(len(toClient))},
	})
}

func TestExact(t *testing.T) {
	eachLegs(t, testExact)
	t.Run("unix", func(t *testing.T) { testExact(t, newRig(t, "unix", false, false)) })
}

// TestReadBefore hands over connections of which more was read than the login has taken: it lies in Pending, in the Socket or
// inside of TLS, where no event tells of it.
func TestReadBefore(t *testing.T) {
	hold := func(t *testing.T, leg *relay.Leg, p *peer, messages string) {
		if s, ok := leg.Conn.(*socket.Socket); ok {
			leg.Pending = []byte(messages[:3])
			s.Unread([]byte(messages[3:]))
			return
		}
		p.write(messages[:9])
		p.write(messages[9:]) // a second record
		leg.Pending = make([]byte, 3)
		if _, err := io.ReadFull(leg.Conn, leg.Pending); err != nil {
			t.Fatal(err)
		}
	}
	eachLegs(t, func(t *testing.T, r *rig) {
		hold(t, &r.config.Client, r.client, query)
		hold(t, &r.config.Server, r.server, answer)
		r.start()
		r.server.expect(query)
		r.client.expect(answer)
		r.close()
	})
}

// TestLongMessage passes one CopyData of 64 MiB each way.
func TestLongMessage(t *testing.T) {
	const size = 64 << 20
	eachLegs(t, func(t *testing.T, r *rig) {
		r.start()
		header := binary.BigEndian.AppendUint32([]byte{'d'}, size+4)
		seed := sha256.Sum256([]byte(t.Name()))
		send := func(p *peer, done chan<- error) {
			_, err := p.Write(header)
			body := rand.NewChaCha8(seed)
			for left, piece := size, make([]byte, 256<<10); left > 0 && err == nil; left -= len(piece) {
				_, _ = body.Read(piece)
				_, err = p.Write(piece)
			}
			done <- err
		}
		receive := func(p *peer, got hash.Hash, done chan<- error) {
			_, err := io.CopyN(got, p, int64(len(header)+size))
			done <- err
		}
		want, client, server := sha256.New(), sha256.New(), sha256.New()
		_, _ = want.Write(header)
		_, _ = io.CopyN(want, rand.NewChaCha8(seed), size)
		done := make(chan error)
		go send(r.client, done)
		go send(r.server, done)
		go receive(r.client, client, done)
		go receive(r.server, server, done)
		if err := errors.Join(<-done, <-done, <-done, <-done); err != nil {
			t.Fatal(err)
		}
		for to, got := range map[string]hash.Hash{"client": client, "server": server} {
			if [sha256.Size]byte(got.Sum(nil)) != [sha256.Size]byte(want.Sum(nil)) {
				t.Errorf("the %s received other bytes than were sent", to)
			}
		}
		r.client.closeWrite()
		r.server.expectEnd("")
		r.server.closeWrite()
		r.client.expectEnd("")
		total := uint64(len(header) + size)
		r.wantResult(relay.Result{Cause: relay.ClientClosed, Stats: relay.Stats{ToServer: total, ToClient: total}})
	})
}

// TestViolation sends lengths that no message can have, from either side.
func TestViolation(t *testing.T) {
	for _, length := range []uint32{0, 1, 2, 3, 1 << 31, 1<<32 - 1} {
		for _, from := range []string{"client", "server"} {
			t.Run(fmt.Sprintf("%s/%d", from, length), func(t *testing.T) {
				eachLegs(t, func(t *testing.T, r *rig) {
					r.start()
					good := message('d', "well formed")
					header := string(binary.BigEndian.AppendUint32([]byte{'d'}, length))
					want := relay.Result{Cause: relay.Violation, Err: wire.ErrLength}
					sender, receiver := r.client, r.server
					want.ToServer = uint64(len(good))
					if from == "server" {
						sender, receiver = r.server, r.client
						want.Stats = relay.Stats{ToClient: uint64(len(good))}
					}
					sender.write(good)
					receiver.expect(good)
					sender.write(header + "behind the header")
					if got, _ := receiver.rest(); got != "" {
						t.Errorf("got %q behind the violation", got)
					}
					_, _ = sender.rest()
					r.wantResult(want)
				})
			})
		}
	}
}
