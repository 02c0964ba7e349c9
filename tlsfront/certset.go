package tlsfront

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// CertificateFiles serves certificates from files, chosen by the server name a client asks for. Make one with
// LoadCertificateFiles. All methods may be called concurrently.
type CertificateFiles struct {
	files     []CertificateFile
	reloading sync.Mutex // so that of two reloads the later reading wins
	current   atomic.Pointer[certificateSet]
}

// LoadCertificateFiles reads all pairs; there must be one at least. The first is the default, and where several pairs
// suit a client the order is the preference. The error names the file and the reason. A certificate that has expired is
// no error: to clients that do not verify it is as good as any. See Warnings.
func LoadCertificateFiles(pairs []CertificateFile) (*CertificateFiles, error) {
	if len(pairs) == 0 {
		return nil, errors.New("no certificate files")
	}
	f := &CertificateFiles{files: slices.Clone(pairs)}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads all files again. The next handshake gets the new certificates, sessions under way are untouched. It is
// all or nothing: on an error everything that was served before is still served. A pair that is read while it is being
// replaced, its certificate new and its key still old, is such an error; try again later.
func (f *CertificateFiles) Reload() error {
	f.reloading.Lock()
	defer f.reloading.Unlock()
	set := &certificateSet{byName: make(map[string][]*tls.Certificate)}
	for _, file := range f.files {
		pair, err := loadPair(file)
		if err != nil {
			return err
		}
		set.add(pair)
	}
	f.current.Store(set)
	return nil
}

// GetCertificate chooses by server name: pairs that carry exactly that name (DNS or IP address), else pairs with a
// wildcard for its first label (RFC 9525 section 6.3), else, as for a client that sends no name, all pairs. Of these it
// returns the first that the client has the algorithms for, so that one name may have an ECDSA and an RSA certificate.
// It takes no lock and never fails.
func (f *CertificateFiles) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	candidates := f.current.Load().candidates(hello.ServerName)
	if len(candidates) == 1 {
		return candidates[0], nil
	}
	// The name is settled: what is still asked here is whether client and key have an algorithm in common.
	anyName := *hello
	anyName.ServerName = ""
	for _, cert := range candidates {
		if anyName.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return candidates[0], nil
}

// Leaves returns the certificates now served, without their chains. They must not be changed.
func (f *CertificateFiles) Leaves() []*x509.Certificate {
	var leaves []*x509.Certificate
	for _, pair := range f.current.Load().pairs {
		leaves = append(leaves, pair.cert.Leaf)
	}
	return leaves
}

// Warnings tells what an operator should know about the certificates now served: expired or soon to expire, keys that
// other users can read, signatures that break SCRAM channel binding. One sentence each, naming the file; nil is fine.
func (f *CertificateFiles) Warnings() []string {
	var all []string
	for _, pair := range f.current.Load().pairs {
		all = append(all, pair.warnings(time.Now())...)
	}
	return all
}

// certificateSet is the result of one complete reading, immutable once published.
type certificateSet struct {
	pairs  []*loadedPair
	all    []*tls.Certificate            // in the order of the files
	byName map[string][]*tls.Certificate // likewise, by certificateNames
}

func (s *certificateSet) add(pair *loadedPair) {
	s.pairs = append(s.pairs, pair)
	s.all = append(s.all, pair.cert)
	for _, name := range certificateNames(pair.cert.Leaf) {
		s.byName[name] = append(s.byName[name], pair.cert)
	}
}

// candidates returns the certificates for a server name, at least one.
func (s *certificateSet) candidates(serverName string) []*tls.Certificate {
	name := canonicalName(serverName)
	if exact, ok := s.byName[name]; ok {
		return exact
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if wildcard, ok := s.byName["*."+parent]; ok {
			return wildcard
		}
	}
	return s.all
}

// certificateNames returns the names a certificate is valid for, each once: "db.example.com", "*.example.com",
// "10.0.0.1". The common name counts only without any alternative name, as in libpq (manual, "SSL Certificate
// Verification"); the manual's own recipe for a self-signed certificate makes such ones.
func certificateNames(leaf *x509.Certificate) []string {
	var names []string
	for _, name := range leaf.DNSNames {
		names = append(names, canonicalName(name))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if cn := leaf.Subject.CommonName; len(names) == 0 && cn != "" {
		names = append(names, canonicalName(cn))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// canonicalName makes names comparable: DNS ignores case, and a final dot only marks the name as complete.
func canonicalName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
