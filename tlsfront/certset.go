package tlsfront

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// CertificateFiles serves certificates from files, chosen by the server name a client asks for. Make one with
// LoadCertificateFiles. All methods may be called concurrently.
type CertificateFiles struct {
	files   []CertificateFile
	watch   fileWatch
	current atomic.Pointer[certificateSet]
}

// LoadCertificateFiles reads all pairs; there must be one at least. The first is the default, and where several pairs
// suit a client the order is the preference. The error names the file and the reason. A certificate that has expired is
// no error: to clients that do not verify it is as good as any. See Warnings.
func LoadCertificateFiles(pairs []CertificateFile) (*CertificateFiles, error) {
	if len(pairs) == 0 {
		return nil, errors.New("no certificate files")
	}
	f := &CertificateFiles{files: slices.Clone(pairs)}
	for _, pair := range pairs {
		f.watch.files = append(f.watch.files, pair.CertFile, pair.KeyFile)
	}
	if err := f.Reload(); err != nil {
		return nil, err
	}
	return f, nil
}

// Reload reads all files again. The next handshake gets the new certificates, sessions under way are untouched. It is
// all or nothing: on an error everything that was served before is still served. A pair that is read while it is being
// replaced, its certificate new and its key still old, is such an error; try again later.
func (f *CertificateFiles) Reload() error { return f.watch.reload(f.load) }

// Watch reloads whenever the files have changed, until ctx ends. It looks every interval, and tells the outcome: nil, or why
// the old certificates stay, once for each state of the files, and not while they are being replaced.
func (f *CertificateFiles) Watch(ctx context.Context, interval time.Duration, told func(error)) {
	f.watch.watch(ctx, interval, f.load, told)
}

func (f *CertificateFiles) load() error {
	set := &certificateSet{byName: make(map[string][]*tls.Certificate)}
	for _, file := range f.files {
		pair, err := loadPair(file)
		if err != nil {
			return err
		}
		pair.loaded = f.since(pair)
		set.add(pair)
	}
	f.current.Store(set)
	return nil
}

// since is when a certificate was taken into use: before, if it is one of those now served.
func (f *CertificateFiles) since(pair *loadedPair) time.Time {
	if current := f.current.Load(); current != nil {
		for _, old := range current.pairs {
			if old.cert.Leaf.Equal(pair.cert.Leaf) {
				return old.loaded
			}
		}
	}
	return time.Now()
}

// GetCertificate chooses by server name: pairs that carry exactly that name (DNS or IP address), else pairs with a
// wildcard for its first label (RFC 9525 section 6.3), else, as for a client that sends no name, all pairs. Of these it
// returns the first that the client has the algorithms for, so that one name may have an ECDSA and an RSA certificate.
// It takes no lock and never fails.
func (f *CertificateFiles) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	set := f.current.Load()
	candidates := set.named(hello.ServerName)
	if candidates == nil {
		candidates = set.all
	}
	return choose(candidates, hello), nil
}

// Beside returns a function like GetCertificate for when there are files and an ACME server: a name that no pair carries, but a
// domain of a does, gets the certificate of a. A client that asks for neither gets what GetCertificate chooses.
func (f *CertificateFiles) Beside(a *ACME) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if _, ok := a.domain(hello.ServerName); ok && f.current.Load().named(hello.ServerName) == nil {
			return a.GetCertificate(hello)
		}
		return f.GetCertificate(hello)
	}
}

// choose returns the first certificate that the client has the algorithms for, else the first.
func choose(candidates []*tls.Certificate, hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(candidates) == 1 {
		return candidates[0]
	}
	// The name is settled: what is still asked here is whether client and key have an algorithm in common.
	anyName := *hello
	anyName.ServerName = ""
	for _, cert := range candidates {
		if anyName.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	return candidates[0]
}

// Certificates tells of every pair, in the order of the files.
func (f *CertificateFiles) Certificates() []CertificateStatus {
	at, failure := f.watch.failed()
	var list []CertificateStatus
	for _, pair := range f.current.Load().pairs {
		status := statusOf("file", pair.cert.Leaf)
		status.File, status.Renewed = pair.CertFile, pair.loaded
		if failure != nil {
			status.LastError, status.LastErrorAt = failure.Error(), at
		}
		list = append(list, status)
	}
	return list
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

// named returns the certificates for a server name, nil if there is none.
func (s *certificateSet) named(serverName string) []*tls.Certificate {
	name := canonicalName(serverName)
	if exact, ok := s.byName[name]; ok {
		return exact
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if wildcard, ok := s.byName["*."+parent]; ok {
			return wildcard
		}
	}
	return nil
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
