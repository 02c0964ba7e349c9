package tlsfront

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a clock that tests set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func openCA(t *testing.T, dir string, now func() time.Time, names ...string) *LocalCA {
	t.Helper()
	ca, err := OpenLocalCA(dir, names, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// leafOf returns the leaf that ca serves now.
func leafOf(t *testing.T, ca *LocalCA) *x509.Certificate {
	t.Helper()
	cert, err := ca.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestLocalCAVerifies(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	ca := openCA(t, t.TempDir(), nil, "DB.example.com", "*.db.example.com", "10.0.0.1", "10.0.0.1", "", "localhost")
	server := ServerConfig(ca.GetCertificate, tls.VersionTLS12)
	for _, name := range []string{"db.example.com", "x.db.example.com", "10.0.0.1", "localhost", "127.0.0.1", "::1", host} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := trusting(t, ca.RootPEM(), name)
			client.MaxVersion = version
			s := shake(t, server, client)
			if s.clientErr != nil || s.serverErr != nil {
				t.Errorf("%s, %s: client %v, server %v", name, tls.VersionName(version), s.clientErr, s.serverErr)
			} else if s.leaf.Leaf == nil || !bytes.Equal(s.leaf.Leaf.Raw, s.presented(t)) {
				t.Errorf("%s, %s: recorded leaf is not the presented one", name, tls.VersionName(version))
			}
		}
	}
	if s := shake(t, server, trusting(t, ca.RootPEM(), "other.example.com")); s.clientErr == nil {
		t.Error("the certificate is valid for a name that nobody asked for")
	}
	other := openCA(t, t.TempDir(), nil)
	if s := shake(t, server, trusting(t, other.RootPEM(), "localhost")); s.clientErr == nil {
		t.Error("the root of another installation verifies ours")
	}
}

func TestLocalCACertificates(t *testing.T) {
	c := &clock{now: time.Now()}
	ca := openCA(t, t.TempDir(), c.Now)
	leaf, root := leafOf(t, ca), ca.root.Leaf
	if got, want := leaf.SignatureAlgorithm, x509.ECDSAWithSHA256; got != want {
		t.Errorf("leaf is signed with %v, want %v: tls-server-end-point must be SHA-256", got, want)
	}
	for _, test := range []struct {
		what      string
		got, want time.Time
	}{
		{"leaf begins", leaf.NotBefore, c.now.Add(-time.Hour)},
		{"leaf ends", leaf.NotAfter, c.now.Add(90 * 24 * time.Hour)},
		{"root begins", root.NotBefore, c.now.Add(-time.Hour)},
		{"root ends", root.NotAfter, c.now.Add(3650 * 24 * time.Hour)},
	} {
		if !test.got.Equal(test.want.Truncate(time.Second)) {
			t.Errorf("%s at %v, want %v", test.what, test.got, test.want)
		}
	}
	if !root.IsCA || !root.MaxPathLenZero || !strings.HasPrefix(root.Subject.CommonName, "pgreplicaproxy local CA (") {
		t.Errorf("root: CA %v, path length zero %v, %v", root.IsCA, root.MaxPathLenZero, root.Subject)
	}
	if bytes.Contains(ca.RootPEM(), []byte("PRIVATE")) {
		t.Error("RootPEM holds the key")
	}
}

func TestLocalCAIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "ca")
	first := openCA(t, dir, nil)
	second := openCA(t, dir, nil, "db.example.com")
	if !bytes.Equal(first.RootPEM(), second.RootPEM()) {
		t.Error("the second start made another root")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "root.pem"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %#o, want %#o", path, got, want)
		}
	}
	wantOnlyRoot(t, dir)
}

// wantOnlyRoot expects that no temporary file is left.
func wantOnlyRoot(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "root.pem" {
		t.Errorf("got %v, want root.pem alone", entries)
	}
}

// Processes have nothing in common but the directory, and neither do these goroutines.
func TestLocalCAFoundedOnce(t *testing.T) {
	for range 10 {
		dir := filepath.Join(t.TempDir(), "ca")
		roots := make([][]byte, 4)
		start := make(chan struct{})
		var founders sync.WaitGroup
		for i := range roots {
			founders.Go(func() {
				<-start
				ca, err := OpenLocalCA(dir, nil, nil)
				if err != nil {
					t.Error(err)
					return
				}
				roots[i] = ca.RootPEM()
			})
		}
		close(start)
		founders.Wait()
		for _, root := range roots {
			if !bytes.Equal(root, roots[0]) {
				t.Fatal("two roots for one directory")
			}
		}
		wantOnlyRoot(t, dir)
	}
}

func TestLocalCARefusesBadRoot(t *testing.T) {
	good := rootFile(t)
	cert, key, _ := bytes.Cut(good, []byte("-----BEGIN PRIVATE KEY-----"))
	key = append([]byte("-----BEGIN PRIVATE KEY-----"), key...)
	_, otherKey, _ := bytes.Cut(rootFile(t), []byte("-----END CERTIFICATE-----\n"))
	leafCert, leafKey := pemPair(t, "ecdsa", names("db.example.com"))
	ca := names("db.example.com")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	rsaCert, rsaKey := pemPair(t, "rsa", ca)

	for what, content := range map[string][]byte{
		"empty":               {},
		"cut":                 good[:len(good)/2],
		"no key":              cert,
		"no certificate":      key,
		"key of another root": append(bytes.Clone(cert), otherKey...),
		"not an authority":    append(leafCert, leafKey...),
		"not ECDSA":           append(rsaCert, rsaKey...),
		"damaged":             bytes.Replace(good, []byte("\nM"), []byte("\nA"), 1),
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "root.pem")
		writeFile(t, file, content, 0o600)
		if _, err := OpenLocalCA(dir, nil, nil); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got error %v, want one that names %s", what, err, file)
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the file was changed (%v)", what, err)
		}
	}
}

// rootFile is the content of a new root's file.
func rootFile(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	openCA(t, dir, nil)
	content, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestLocalCARefusesExposedKey(t *testing.T) {
	dir := t.TempDir()
	openCA(t, dir, nil)
	file := filepath.Join(dir, "root.pem")
	for _, mode := range []os.FileMode{0o644, 0o604, 0o660} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLocalCA(dir, nil, nil); err == nil || !strings.Contains(err.Error(), "chmod 0600 "+file) {
			t.Errorf("mode %#o: got error %v, want one that names the chmod", mode, err)
		}
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	openCA(t, dir, nil)
}

func TestLocalCARefusesImpossibleDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, nil, 0o600)
	if _, err := OpenLocalCA(filepath.Join(file, "ca"), nil, nil); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got error %v, want one that names %s", err, file)
	}
}

func TestLocalCARenewsLeaf(t *testing.T) {
	c := &clock{now: time.Now()}
	ca := openCA(t, t.TempDir(), c.Now, "db.example.com")
	client := trusting(t, ca.RootPEM(), "db.example.com")
	client.Time = c.Now
	server := ServerConfig(ca.GetCertificate, 0)
	const day = 24 * time.Hour
	var before []byte
	for _, test := range []struct {
		advance time.Duration
		renewed bool
	}{
		{0, true},
		{59 * day, false},
		{2 * day, true},
		{59 * day, false},
		{200 * day, true}, // asleep past the end
		{-100 * day, true},
		{0, false},
	} {
		c.advance(test.advance)
		presented := shake(t, server, client).presented(t)
		if got := !bytes.Equal(presented, before); got != test.renewed {
			t.Errorf("after %v: renewed %v, want %v", test.advance, got, test.renewed)
		}
		before = presented
	}
}

// Handshakes that arrive together when a renewal is due all get a valid leaf, and only one of them makes it.
func TestLocalCARenewsOnce(t *testing.T) {
	for _, late := range []time.Duration{61 * 24 * time.Hour, 91 * 24 * time.Hour} {
		c := &clock{now: time.Now()}
		ca := openCA(t, t.TempDir(), c.Now)
		old := leafOf(t, ca)
		c.advance(late)
		now := c.Now()
		leaves := make([]*x509.Certificate, 16)
		var clients, arrived sync.WaitGroup
		arrived.Add(len(leaves))
		ca.now = func() time.Time { // which GetCertificate asks once it has the old leaf
			arrived.Done()
			arrived.Wait()
			return now
		}
		for i := range leaves {
			clients.Go(func() {
				cert, err := ca.GetCertificate(&tls.ClientHelloInfo{})
				if err != nil {
					t.Error(err)
					return
				}
				leaves[i] = cert.Leaf
			})
		}
		clients.Wait()
		ca.now = c.Now
		renewed := leafOf(t, ca)
		for _, leaf := range leaves {
			if now.After(leaf.NotAfter) {
				t.Errorf("after %v: served a leaf that ended at %v", late, leaf.NotAfter)
			}
			if !leaf.Equal(old) && !leaf.Equal(renewed) {
				t.Errorf("after %v: more than one renewal", late)
			}
		}
	}
}

// While one handshake renews, others are served at once with the leaf that is still valid.
func TestLocalCARenewalBlocksNobody(t *testing.T) {
	c := &clock{now: time.Now()}
	ca := openCA(t, t.TempDir(), c.Now)
	old := leafOf(t, ca)
	c.advance(61 * 24 * time.Hour)
	ca.renewing.Lock() // a renewal that takes its time
	if got := leafOf(t, ca); !got.Equal(old) {
		t.Error("got another leaf while the renewal is under way")
	}
	ca.renewing.Unlock()
	if got := leafOf(t, ca); got.Equal(old) {
		t.Error("the leaf was not renewed afterwards")
	}
}

func TestLocalCAKeepsLeafWhenRenewalFails(t *testing.T) {
	c := &clock{now: time.Now()}
	ca := openCA(t, t.TempDir(), c.Now)
	old := leafOf(t, ca)
	ca.dnsNames = []string{"not ASCII: ü"} // cannot be signed
	c.advance(61 * 24 * time.Hour)
	if got := leafOf(t, ca); !got.Equal(old) {
		t.Error("a failed renewal changed the leaf")
	}
	c.advance(30 * 24 * time.Hour)
	if cert, err := ca.GetCertificate(&tls.ClientHelloInfo{}); err == nil {
		t.Errorf("served a leaf that ended at %v", cert.Leaf.NotAfter)
	}
}

func TestLocalCAWarnings(t *testing.T) {
	const year = 365 * 24 * time.Hour
	c := &clock{now: time.Now()}
	dir := t.TempDir()
	openCA(t, dir, c.Now)
	for _, test := range []struct {
		advance time.Duration
		want    string
	}{
		{0, ""},
		{9*year - time.Hour, ""},
		{2 * time.Hour, "expires at"},
		{year, "expired at"},
		{-11 * year, "is not valid before"},
	} {
		c.advance(test.advance)
		ca := openCA(t, dir, c.Now) // a root of whatever age is served
		if _, ok := ca.root.PrivateKey.(*ecdsa.PrivateKey); !ok {
			t.Fatalf("root key is %T", ca.root.PrivateKey)
		}
		got := strings.Join(ca.Warnings(), "\n")
		if !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("after %v: got warning %q, want %q in it", test.advance, got, test.want)
		}
		if got != "" && !strings.Contains(got, filepath.Join(dir, "root.pem")) {
			t.Errorf("after %v: %q does not name the file", test.advance, got)
		}
	}
}
