package tlsfront

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"
)

// writer is the sending half of a TLS 1.3 connection (RFC 8446, section 5) that can send what crypto/tls would not.
type writer struct {
	t      *testing.T
	conn   net.Conn
	secret []byte
	sealer cipher.AEAD
	iv     []byte
	number uint64
}

// takeOver makes the handshake and takes the client's sending half over. Nothing may have been sent behind the handshake.
func takeOver(t *testing.T, conn net.Conn) *writer {
	t.Helper()
	var keys bytes.Buffer
	config := libpq(alpn)
	config.KeyLogWriter = &keys
	secured := tls.Client(conn, config)
	if err := secured.Handshake(); err != nil {
		t.Fatal(err)
	}
	state := secured.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("%s with %s was agreed on, which the test does not speak", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
	}
	w := &writer{t: t, conn: conn}
	for lines := bufio.NewScanner(&keys); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			w.secret, _ = hex.DecodeString(fields[2])
		}
	}
	w.rekey()
	return w
}

// expand is HKDF-Expand-Label without a context (section 7.1).
func (w *writer) expand(label string, length int) []byte {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(append(info, byte(len(label))), label...)
	key, err := hkdf.Expand(sha256.New, w.secret, string(append(info, 0)), length)
	if err != nil {
		w.t.Fatal(err)
	}
	return key
}

func (w *writer) rekey() {
	block, err := aes.NewCipher(w.expand("key", 16))
	if err == nil {
		w.sealer, err = cipher.NewGCM(block)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.iv, w.number = w.expand("iv", 12), 0
}

// record seals content of a type.
func (w *writer) record(kind byte, content ...byte) []byte {
	nonce := bytes.Clone(w.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(w.number >> (56 - 8*i))
	}
	w.number++
	plain := append(content, kind)
	header := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(header[3:], uint16(len(plain)+w.sealer.Overhead()))
	return w.sealer.Seal(header, nonce, plain, header)
}

// keyUpdate asks the peer to change its keys too, and changes ours (section 4.6.3).
func (w *writer) keyUpdate() []byte {
	const handshake, updateRequested = 22, 1
	b := w.record(handshake, 24, 0, 0, 1, updateRequested)
	w.secret = w.expand("traffic upd", 32)
	w.rekey()
	return b
}

// CVE-2026-32283, CVE-2026-56862: a client that does nothing but change keys, and does not read what it is answered, is gone by
// the deadline, and others are served meanwhile.
func TestKeyUpdateFlood(t *testing.T) {
	f := startFront(t, loopback(t), Config{LoginTimeout: 2 * time.Second}, nil)
	flood := func() *peer {
		p := f.dial(t)
		p.send(sslRequest)
		p.want("S")
		w := takeOver(t, p.Conn)
		for range 100_000 {
			if _, err := p.Write(w.keyUpdate()); err != nil {
				break // closed, as it should be
			}
		}
		return p
	}
	floods := []*peer{flood(), flood()}
	polite := f.dial(t)
	polite.send(sslRequest)
	polite.want("S")
	inside := polite.startTLS(libpq(alpn))
	inside.send(startup(3, 0, parameters))
	if got := inside.refusal().Code; got != "57P03" {
		t.Errorf("a polite client got %s", got)
	}
	for _, p := range floods {
		p.rest()
	}
	if got := len(f.stop(t)); got != 1 {
		t.Errorf("%d clients were handed over, want the polite one", got)
	}
}

// A few changes of keys are no attack: they come before the startup packet, and the client is served.
func TestKeyUpdate(t *testing.T) {
	f := startFront(t, loopback(t), Config{}, nil)
	p := f.dial(t)
	p.send(sslRequest)
	p.want("S")
	w := takeOver(t, p.Conn)
	for range 3 {
		p.send(string(w.keyUpdate()))
	}
	p.send(string(w.record(23, []byte(startup(3, 0, parameters))...)))
	p.rest()
	if clients := f.stop(t); len(clients) != 1 || clients[0].Opening.Startup.User() != "bob" {
		t.Errorf("%d clients were handed over, want bob", len(clients))
	}
}
