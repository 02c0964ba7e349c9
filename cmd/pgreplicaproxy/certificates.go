package main

import (
	"crypto/tls"
	"log/slog"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// certificateSource is where the front's certificates come from.
type certificateSource struct {
	get      func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	reload   func() error
	warnings func() []string
}

// openCertificates opens the certificate files of the configuration, or the local CA where it names none.
func openCertificates(cfg *config, log *slog.Logger) (certificateSource, error) {
	var source certificateSource
	if len(cfg.Certificates) > 0 {
		files, err := tlsfront.LoadCertificateFiles(cfg.Certificates)
		if err != nil {
			return source, err
		}
		source = certificateSource{files.GetCertificate, files.Reload, files.Warnings}
	} else {
		ca, err := openLocalCA(cfg)
		if err != nil {
			return source, err
		}
		source = certificateSource{ca.GetCertificate, func() error { return nil }, ca.Warnings}
	}
	source.warn(log)
	return source, nil
}

func (c certificateSource) warn(log *slog.Logger) {
	for _, text := range c.warnings() {
		log.Warn("certificate", "warning", text)
	}
}
