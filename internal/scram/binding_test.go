package scram

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"testing"
)

// TestEndPoint compares with hashes that openssl made. Each certificate has its name and hash in front.
func TestEndPoint(t *testing.T) {
	rest, err := os.ReadFile("testdata/certificates.pem")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		count++
		t.Run(block.Headers["Name"], func(t *testing.T) {
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			want := block.Headers["End-Point"]
			hash, ok := EndPoint(leaf)
			if got := hex.EncodeToString(hash); ok && got != want || ok == (want == "none") || !ok && hash != nil {
				t.Errorf("signed with %v: got %s, %t, want %s", leaf.SignatureAlgorithm, got, ok, want)
			}
		})
	}
	if count != 16 {
		t.Errorf("got %d certificates, want 16", count)
	}
}

func TestEndPointOfNothing(t *testing.T) {
	for name, leaf := range map[string]*x509.Certificate{"no certificate": nil, "zero certificate": {}} {
		if hash, ok := EndPoint(leaf); ok || hash != nil {
			t.Errorf("%s: got %x, %t, want nothing", name, hash, ok)
		}
	}
}
