package tlsfront

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// LocalCA is a certificate authority of this proxy alone, for an installation that configured no certificate: clients
// that are given its root (RootPEM, as sslrootcert) can use sslmode=verify-full from the first minute. Make one with
// OpenLocalCA. All methods may be called concurrently.
//
// The root lives in one file and is never replaced by the proxy, for no client would trust the new one: Warnings speaks
// up during its last year, and the operator picks the day. The leaf lives in memory only: each start makes a new one,
// and so does the first handshake after two thirds of its life. Only the leaf is presented; clients have the root.
type LocalCA struct {
	root     *tls.Certificate // Leaf is set
	rootPEM  []byte
	rootFile string
	dnsNames []string
	ips      []net.IP
	now      func() time.Time

	renewing sync.Mutex
	leaf     atomic.Pointer[tls.Certificate]
}

// OpenLocalCA opens the authority kept in dir, and founds it when dir has none; dir is created (mode 0700) if need be.
// Any number of processes may do so at once and all get the same root. A root that cannot be read, does not fit together
// or can be read by other users is an error that names the file, and is left as it is.
//
// An empty dir keeps the authority in memory: for a stand-in that nobody is meant to trust.
//
// The leaf is for names (DNS names, wildcards and IP addresses; empty ones are skipped), localhost, both loopback
// addresses and the machine's host name. A nil clock is time.Now.
func OpenLocalCA(dir string, names []string, now func() time.Time) (*LocalCA, error) {
	if now == nil {
		now = time.Now
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	ca := &LocalCA{rootFile: filepath.Join(dir, "root.pem"), now: now}
	ca.addNames(names...)
	ca.addNames("localhost", "127.0.0.1", "::1", host)

	if dir == "" {
		ca.root, err = newRoot(host, now())
	} else {
		ca.root, err = openRoot(ca.rootFile, host, now())
	}
	if err != nil {
		return nil, fmt.Errorf("local CA: %w", err)
	}
	ca.rootPEM = encodePEM("CERTIFICATE", ca.root.Certificate[0])
	leaf, err := ca.issue(now())
	if err != nil {
		return nil, fmt.Errorf("local CA: issue a certificate with %s: %w", ca.rootFile, err)
	}
	ca.leaf.Store(leaf)
	return ca, nil
}

func (ca *LocalCA) addNames(names ...string) {
	for _, name := range names {
		switch ip := net.ParseIP(name); {
		case name == "" || slices.ContainsFunc(ca.ips, ip.Equal):
		case ip != nil:
			ca.ips = append(ca.ips, ip)
		default:
			ca.dnsNames = append(ca.dnsNames, canonicalName(name))
		}
	}
	slices.Sort(ca.dnsNames)
	ca.dnsNames = slices.Compact(ca.dnsNames)
}

// RootPEM returns the root's certificate, without its key, as clients want it in sslrootcert. The slice is the caller's.
func (ca *LocalCA) RootPEM() []byte { return slices.Clone(ca.rootPEM) }

// Warnings tells what an operator should know: that the root is not yet, no longer or not much longer valid. nil is fine.
func (ca *LocalCA) Warnings() []string {
	root, now := ca.root.Leaf, ca.now()
	w := validityWarning(root, now)
	if w == "" && root.NotAfter.Sub(now) < rootLife/10 {
		w = "expires at " + root.NotAfter.UTC().Format(time.RFC3339)
	}
	if w == "" {
		return nil
	}
	return []string{fmt.Sprintf("local CA root %s %s: to replace it, remove the file, restart, and give clients the new root", ca.rootFile, w)}
}

// Certificates tells of the leaf.
func (ca *LocalCA) Certificates() []CertificateStatus {
	leaf := ca.leaf.Load().Leaf
	status := statusOf("local CA", leaf)
	status.Renewed = leaf.NotBefore.Add(backdate)
	return []CertificateStatus{status}
}

// GetCertificate returns the leaf, whatever name the client asks for. The handshake that finds it due for renewal
// signs a new one, which takes well under a millisecond; meanwhile others get the old one, which is still valid. Only
// when it is not (a machine that slept for months) do they wait.
func (ca *LocalCA) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	leaf, now := ca.leaf.Load(), ca.now()
	if !dueForRenewal(leaf.Leaf, now) {
		return leaf, nil
	}
	valid := !now.Before(leaf.Leaf.NotBefore) && !now.After(leaf.Leaf.NotAfter)
	if !valid {
		ca.renewing.Lock()
	} else if !ca.renewing.TryLock() {
		return leaf, nil
	}
	defer ca.renewing.Unlock()
	if renewed := ca.leaf.Load(); renewed != leaf {
		return renewed, nil
	}
	renewed, err := ca.issue(now)
	if err != nil {
		if valid {
			return leaf, nil // good for a while; the next handshake tries again
		}
		return nil, fmt.Errorf("local CA: renew the certificate: %w", err)
	}
	ca.leaf.Store(renewed)
	return renewed, nil
}

// dueForRenewal reports whether less than a third of the leaf's life is left, or whether the clock was set back to before
// it began.
func dueForRenewal(leaf *x509.Certificate, now time.Time) bool {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return now.Before(leaf.NotBefore) || now.After(leaf.NotAfter.Add(-life/3))
}
