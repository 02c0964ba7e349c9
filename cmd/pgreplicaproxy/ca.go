package main

import (
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/tlsfront"
)

func newCACommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "ca",
		Short: "Print the root certificate of the local CA",
		Long: "Print the root certificate of the local CA, which is made on first use, in PEM.\n" +
			"Clients that have it in a file can connect with sslmode=verify-full sslrootcert=FILE.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, diags := loadConfigWithoutSecrets(*configPath)
			if err := reportDiagnostics(cmd.ErrOrStderr(), *configPath, diags); err != nil {
				return err
			}
			if len(cfg.Certificates) > 0 || cfg.ACME != nil {
				return errors.New("the configuration names certificates, so there is no local CA: " +
					"clients need the root of whoever issues them")
			}
			ca, err := openLocalCA(cfg)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(ca.RootPEM())
			return err
		},
	}
}

// openLocalCA opens the local CA of a configuration without certificate files.
func openLocalCA(cfg *config) (*tlsfront.LocalCA, error) {
	return tlsfront.OpenLocalCA(filepath.Join(cfg.StateDir, "ca"), cfg.caNames(), time.Now)
}

// caNames are what the certificate of the local CA is for: the names of the configuration, or those that ACME is to obtain
// certificates for, and the hosts that the listeners name.
func (cfg *config) caNames() []string {
	names := append([]string(nil), cfg.Names...)
	if cfg.ACME != nil {
		names = append(names, cfg.ACME.Domains...)
	}
	for _, l := range cfg.Listeners {
		host, _, err := net.SplitHostPort(l.Address)
		if ip := net.ParseIP(host); l.Network == "tcp" && err == nil && host != "" && (ip == nil || !ip.IsUnspecified()) {
			names = append(names, host)
		}
	}
	return names
}
