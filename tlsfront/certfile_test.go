package tlsfront

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCertificateFileErrors(t *testing.T) {
	dir := t.TempDir()
	certPEM, keyPEM := pemPair(t, "ecdsa", names("db.example.com"))
	otherCert, otherKey := pemPair(t, "ecdsa", names("db.example.com"))
	_, rsaKey := pemPair(t, "rsa", names("db.example.com"))
	for _, test := range []struct {
		base      string
		cert, key []byte
		want      []string
	}{
		{"swapped", keyPEM, certPEM, []string{"swapped.crt", "may have been switched"}},
		{"notpem", []byte("hello"), keyPEM, []string{"notpem.crt", "certificate input"}},
		{"notkey", certPEM, []byte("hello"), []string{"notkey.key", "key input"}},
		{"empty", nil, nil, []string{"empty.crt", "certificate input"}},
		{"mismatch", certPEM, otherKey, []string{"mismatch.crt", "mismatch.key", "does not match"}},
		{"kind", certPEM, rsaKey, []string{"kind.crt", "kind.key", "does not match"}},
		{"order", append(otherCert, certPEM...), keyPEM, []string{"order.crt", "does not match"}},
		{"cut", certPEM[:len(certPEM)/2], keyPEM, []string{"cut.crt"}},
		{"passphrase", certPEM, encodePEM("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), []string{"passphrase.key", "openssl pkey"}},
	} {
		pair := writePair(t, dir, test.base, test.cert, test.key)
		wantError(t, test.base, pair, test.want...)
	}

	pair := writePair(t, dir, "good", certPEM, keyPEM)
	wantError(t, "no certificate", CertificateFile{filepath.Join(dir, "none.crt"), pair.KeyFile}, "none.crt", "no such file")
	wantError(t, "no key", CertificateFile{pair.CertFile, filepath.Join(dir, "none.key")}, "none.key", "no such file")
	wantError(t, "no file name", CertificateFile{pair.CertFile, ""}, "good.crt")
	wantError(t, "a directory", CertificateFile{dir, pair.KeyFile}, dir, "is a directory")
	if os.Geteuid() != 0 { // root reads everything
		if err := os.Chmod(pair.KeyFile, 0); err != nil {
			t.Fatal(err)
		}
		wantError(t, "unreadable", pair, "good.key", "permission denied")
	}
	if _, err := LoadCertificateFiles(nil); err == nil {
		t.Error("no pair at all was accepted")
	}
}

// wantError expects that both ways of reading a pair fail, with all fragments in the text.
func wantError(t *testing.T, what string, pair CertificateFile, fragments ...string) {
	t.Helper()
	_, checked := CheckCertificateFile(pair)
	_, loaded := LoadCertificateFiles([]CertificateFile{pair})
	if checked == nil || loaded == nil || checked.Error() != loaded.Error() {
		t.Errorf("%s: got %v by checking, %v by loading, want the same error", what, checked, loaded)
		return
	}
	for _, fragment := range fragments {
		if !strings.Contains(checked.Error(), fragment) {
			t.Errorf("%s: got error %q, want %q in it", what, checked, fragment)
		}
	}
}

func TestCertificateFileWarnings(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	valid := func(before, after time.Time) x509.Certificate {
		template := names("db.example.com")
		template.NotBefore, template.NotAfter = before, after
		return template
	}
	for _, test := range []struct {
		base     string
		kind     string
		template x509.Certificate
		mode     os.FileMode
		want     string // "" for no warning
	}{
		{"fine", "ecdsa", names("db.example.com"), 0o600, ""},
		{"fine-rsa", "rsa", names("10.0.0.1"), 0o400, ""},
		{"fine-short", "ecdsa", valid(now.AddDate(0, 0, -3), now.AddDate(0, 0, 3)), 0o600, ""},
		{"expired", "ecdsa", valid(now.AddDate(-1, 0, 0), now.Add(-time.Hour)), 0o600, "expired.crt expired at"},
		{"soon", "ecdsa", valid(now.AddDate(-1, 0, 0), now.AddDate(0, 0, 14)), 0o600, "soon.crt expires at"},
		{"early", "ecdsa", valid(now.Add(time.Hour), now.AddDate(1, 0, 0)), 0o600, "early.crt is not valid before"},
		{"ed25519", "ed25519", names("db.example.com"), 0o600, "ed25519.crt is signed with Ed25519"},
		{"cn", "ecdsa", x509.Certificate{Subject: pkix.Name{CommonName: "db"}}, 0o600, "cn.crt has no subject alternative name"},
		{"world", "ecdsa", names("db.example.com"), 0o604, "chmod 0600 " + filepath.Join(dir, "world.key")},
		{"groupwrite", "ecdsa", names("db.example.com"), 0o620, "chmod 0600 "},
	} {
		certPEM, keyPEM := pemPair(t, test.kind, test.template)
		pair := writePair(t, dir, test.base, certPEM, keyPEM)
		if err := os.Chmod(pair.KeyFile, test.mode); err != nil {
			t.Fatal(err)
		}
		files, err := LoadCertificateFiles([]CertificateFile{pair})
		if err != nil {
			t.Errorf("%s: %v", test.base, err)
			continue
		}
		checked, err := CheckCertificateFile(pair)
		if err != nil {
			t.Errorf("%s: %v", test.base, err)
		}
		got := strings.Join(files.Warnings(), "\n")
		if also := strings.Join(checked, "\n"); also != got {
			t.Errorf("%s: checking warns %q, loading %q", test.base, also, got)
		}
		if !strings.Contains(got, test.want) || (test.want == "") != (got == "") {
			t.Errorf("%s: got warning %q, want %q in it", test.base, got, test.want)
		}
	}
}

// A group may read the key only when its owner is root, as with the keys of Debian's ssl-cert group.
func TestKeyReadableByGroup(t *testing.T) {
	certPEM, keyPEM := pemPair(t, "ecdsa", names("db.example.com"))
	pair := writePair(t, t.TempDir(), "db", certPEM, keyPEM)
	if err := os.Chmod(pair.KeyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	owners := []int{os.Geteuid()}
	if os.Geteuid() == 0 {
		owners = []int{0, 65534}
	}
	for _, owner := range owners {
		if err := os.Chown(pair.KeyFile, owner, -1); err != nil {
			t.Fatal(err)
		}
		warnings, err := CheckCertificateFile(pair)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := len(warnings) > 0, owner != 0; got != want {
			t.Errorf("owner %d: warned %v, want %v: %q", owner, got, want, warnings)
		}
	}
}
