package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"log/slog"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// certificateSource is where the front's certificates come from.
type certificateSource struct {
	get      func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	reload   func() error
	warnings func() []string
	leaves   func() []*x509.Certificate // those that a server may have too
}

// openCertificates opens the certificate files of the configuration, or the local CA where it names none.
func openCertificates(cfg *config, log *slog.Logger) (certificateSource, error) {
	var source certificateSource
	if len(cfg.Certificates) > 0 {
		files, err := tlsfront.LoadCertificateFiles(cfg.Certificates)
		if err != nil {
			return source, err
		}
		source = certificateSource{files.GetCertificate, files.Reload, files.Warnings, files.Leaves}
	} else {
		ca, err := openLocalCA(cfg)
		if err != nil {
			return source, err
		}
		source = certificateSource{ca.GetCertificate, func() error { return nil }, ca.Warnings, func() []*x509.Certificate { return nil }}
	}
	source.warn(log)
	return source, nil
}

// leafHashes is proxy.Config.Leaves.
func (c certificateSource) leafHashes() [][32]byte {
	var hashes [][32]byte
	for _, leaf := range c.leaves() {
		hashes = append(hashes, sha256.Sum256(leaf.Raw))
	}
	return hashes
}

func (c certificateSource) warn(log *slog.Logger) {
	for _, text := range c.warnings() {
		log.Warn("certificate", "warning", text)
	}
}
