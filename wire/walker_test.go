package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// seen is all that a Walker tells of a stream.
type seen struct {
	status                       byte
	answers, requests            uint64
	open, terminated, atBoundary bool
}

func told(w *Walker) seen {
	return seen{w.Status(), w.Answers(), w.Requests(), w.Open(), w.Terminated(), w.AtBoundary()}
}

// naive is the obvious parser: it has all of the stream so far in hand, and returns the end of its last whole message.
func naive(stream []byte) (end int, s seen) {
	for rest := stream; len(rest) >= 5; rest = stream[end:] {
		switch rest[0] {
		case 'Q', 'F', 'S':
			s.requests++
			s.open = false
		case 'P', 'B', 'D', 'E', 'C', 'H':
			s.open = true
		case 'X':
			s.terminated = true
		}
		length := int(binary.BigEndian.Uint32(rest[1:]))
		if len(rest) < 1+length {
			break
		}
		if rest[0] == 'Z' && length == 5 {
			s.status = rest[5]
			s.answers++
		}
		end += 1 + length
	}
	s.atBoundary = end == len(stream)
	return end, s
}

// randomStream is a stream of messages of all types that matter and some that do not, most of them tiny.
func randomStream(random *rand.Rand) []byte {
	var stream []byte
	for range 1 + random.IntN(30) {
		messageType := "QFSPBDECHXZZZZdcfpRTN\x00\xff"[random.IntN(23)]
		size := []int{0, 1, 1, 2, 3, 4, 5, 6, random.IntN(300)}[random.IntN(9)]
		body := make([]byte, size)
		for i := range body {
			body[i] = "IETZ\x00\x05QS"[random.IntN(8)] // such as would be taken for a header
		}
		stream = append(stream, message(messageType, string(body))...)
	}
	return stream[:len(stream)-random.IntN(min(4, len(stream)))]
}

func TestWalkerAgreesWithNaiveParser(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 0))
		stream, longest := randomStream(random), 1+random.IntN(40)
		var w Walker
		for at := 0; at < len(stream); {
			next := min(len(stream), at+random.IntN(longest+1)) // an empty piece among others
			got, err := w.Walk(stream[at:next])
			end, want := naive(stream[:next])
			boundary := -1
			if end > at {
				boundary = end - at
			}
			if err != nil || got != boundary || told(&w) != want {
				t.Fatalf("seed %d, piece %q behind %q:\ngot  %d, %v, %+v\nwant %d, %+v",
					seed, stream[at:next], stream[:at], got, err, told(&w), boundary, want)
			}
			at = next
		}
	}
}

func TestWalkerFollowsTheClient(t *testing.T) {
	var w Walker
	for i, step := range []struct {
		piece []byte
		want  seen
	}{
		{nil, seen{atBoundary: true}},
		{message('Q', "select 1\x00"), seen{requests: 1, atBoundary: true}},
		{message('P', "\x00\x00\x00\x00"), seen{requests: 1, open: true, atBoundary: true}},
		{message('d', "row"), seen{requests: 1, open: true, atBoundary: true}},
		{header('S', 4)[:4], seen{requests: 1, open: true}},
		{header('S', 4)[4:], seen{requests: 2, atBoundary: true}},
		{header('H', 4), seen{requests: 2, open: true, atBoundary: true}},
		{header('Q', 9), seen{requests: 3}}, // begun is asked
		{[]byte("abcd\x00"), seen{requests: 3, atBoundary: true}},
		{message('F', "\x00"), seen{requests: 4, atBoundary: true}},
		{header('X', 4), seen{requests: 4, terminated: true, atBoundary: true}},
	} {
		if _, err := w.Walk(step.piece); err != nil || told(&w) != step.want {
			t.Fatalf("step %d, %q:\ngot  %+v, %v\nwant %+v", i, step.piece, told(&w), err, step.want)
		}
	}
}

func TestWalkerFollowsTheServer(t *testing.T) {
	var w Walker
	for i, step := range []struct {
		piece   string
		status  byte
		answers uint64
		last    byte
	}{
		{"", 0, 0, 0},
		{"Z\x00\x00\x00\x05I", 'I', 1, 'Z'},
		{"E\x00\x00\x00\x05\x00", 'I', 1, 'E'},
		{"Z\x00\x00\x00\x05", 'I', 1, 'Z'}, // no answer until its status is there
		{"T", 'T', 2, 'Z'},
		{"D\x00\x00\x00\x0aZ\x00\x00\x00\x05I", 'T', 2, 'D'}, // a row that looks like an answer
		{"Z\x00\x00\x00\x05EZ\x00\x00\x00\x05I", 'I', 4, 'Z'},
		{"Z\x00\x00\x00\x04", 'I', 4, 'Z'}, // what has no status, or more than one, is no answer
		{"Z\x00\x00\x00\x06T", 'I', 4, 'Z'},
		{"T", 'I', 4, 'Z'},
	} {
		_, err := w.Walk([]byte(step.piece))
		if err != nil || w.Status() != step.status || w.Answers() != step.answers || w.Last() != step.last {
			t.Fatalf("step %d, %q: got %q, %d, %q, %v; want %q, %d, %q",
				i, step.piece, w.Status(), w.Answers(), w.Last(), err, step.status, step.answers, step.last)
		}
	}
}

// A length that no message can have ends the walk, and the boundary before it is still told (CVE-2024-27304 is what
// becomes of a length that wraps).
func TestWalkerRefusesLength(t *testing.T) {
	before := message('Z', "I")
	for _, length := range []uint32{0, 1, 2, 3, maxBody + 5, 1 << 31, 1<<32 - 4, 1<<32 - 1} {
		stream := append(append([]byte(nil), before...), header('d', length)...)
		var w Walker
		if got, err := w.Walk(stream); got != len(before) || !errors.Is(err, ErrLength) {
			t.Errorf("length %d: got %d, %v; want %d, ErrLength", length, got, err, len(before))
		}
		w = Walker{}
		for i, b := range stream {
			_, err := w.Walk([]byte{b})
			if last := i == len(stream)-1; errors.Is(err, ErrLength) != last {
				t.Errorf("length %d, byte %d of %d alone: got %v", length, i+1, len(stream), err)
			}
		}
	}
}

// The longest message that is let through ends where its header says, to the byte.
func TestWalkerAcrossOneGibibyte(t *testing.T) {
	var w Walker
	if got, err := w.Walk(header('d', maxBody+4)); got != -1 || err != nil {
		t.Fatalf("got %d, %v", got, err)
	}
	piece := bytes.Repeat([]byte("Z\x00\x00\x00\x05I"), 1<<18)
	for left := maxBody; left > len(piece); left -= len(piece) {
		if got, err := w.Walk(piece); got != -1 || err != nil || w.Answers() != 0 {
			t.Fatalf("%d bytes before the end: got %d, %v", left, got, err)
		}
	}
	last := maxBody % len(piece)
	if got, err := w.Walk(append(piece[:last:last], message('Z', "T")...)); got != last+6 || err != nil || w.Status() != 'T' {
		t.Errorf("got %d, %v, status %q; want %d", got, err, w.Status(), last+6)
	}
}

// dataRows are n rows of 167 bytes, the size that a row of a small table has.
func dataRows(n int) []byte {
	return bytes.Repeat(message('D', string(make([]byte, 167-headerLen))), n)
}

func TestWalkerAllocatesNothing(t *testing.T) {
	rows := dataRows(100)
	var w Walker
	if got := testing.AllocsPerRun(100, func() {
		for piece := rows; len(piece) > 0; piece = piece[min(1000, len(piece)):] {
			if _, err := w.Walk(piece[:min(1000, len(piece))]); err != nil {
				t.Fatal(err)
			}
		}
	}); got != 0 {
		t.Errorf("got %v allocations", got)
	}
}

func BenchmarkWalkDataRows(b *testing.B) {
	rows := dataRows(1)
	b.SetBytes(int64(len(rows)))
	b.ReportAllocs()
	var w Walker
	for b.Loop() {
		if _, err := w.Walk(rows); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWalkPieces walks one MiB of rows as the relay reads it: in pieces that end anywhere.
func BenchmarkWalkPieces(b *testing.B) {
	const piece = 16 << 10
	rows := dataRows(1 << 20 / 167)
	b.SetBytes(int64(len(rows)))
	b.ReportAllocs()
	var w Walker
	for b.Loop() {
		for at := 0; at < len(rows); at += piece {
			if _, err := w.Walk(rows[at:min(at+piece, len(rows))]); err != nil {
				b.Fatal(err)
			}
		}
	}
}
