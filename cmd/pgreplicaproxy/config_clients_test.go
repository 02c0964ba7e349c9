package main

import (
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

func TestClientCertificatesAreConverted(t *testing.T) {
	setConfigEnvironment(t)
	dir := t.TempDir()
	writeCertificate(t, dir, "ca", time.Hour)
	cfg := loadText(t, dir, `
tls {
  client_ca_file      = "ca.crt"
  client_certificates = "required"
  client_map {
    common_name = "app-*"
    dns_name    = "*.apps.example.com"
    email       = "*@example.com"
    uri         = "spiffe://example.com/*"
    users       = ["app", "reporting"]
  }
  client_map { same_user = true }
}
`+acmeCluster)
	want := &tlsfront.ClientCertificateConfig{
		CAFile: filepath.Join(dir, "ca.crt"), Required: true,
		Map: []tlsfront.ClientRule{
			{
				CommonName: "app-*", DNSName: "*.apps.example.com", Email: "*@example.com", URI: "spiffe://example.com/*",
				Users: []string{"app", "reporting"},
			},
			{SameUser: true},
		},
	}
	if !reflect.DeepEqual(cfg.ClientCertificates, want) {
		t.Errorf("(-want +got)\n%s", cmp.Diff(want, cfg.ClientCertificates))
	}
	if cfg := loadText(t, dir, acmeCluster); cfg.ClientCertificates != nil {
		t.Errorf("got %v, want none", cfg.ClientCertificates)
	}
}
