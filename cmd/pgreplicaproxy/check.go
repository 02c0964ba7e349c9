package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// usageError ends the program with exit code 2: the command line or the configuration is wrong. main prints its message
// like that of any other error; the diagnostics that explain it have been written to stderr by then.
type usageError struct{ err error }

// Error returns the message of the error within.
func (e usageError) Error() string { return e.err.Error() }

// Unwrap returns the error within.
func (e usageError) Unwrap() error { return e.err }

// notValid is the usageError for a file with errors.
func notValid(path string, diags diagnostics) error {
	return usageError{fmt.Errorf("%s is not valid: %v", path, diags)}
}

// newCheckCommand returns the command that reads the configuration as serve would and says what is wrong with it.
func newCheckCommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration",
		Long: `Check the configuration and the files it refers to, without listening or connecting anywhere.

All mistakes are told at once, each with its line and what to write instead. The exit code is 0 for a valid file,
though there be warnings, and 2 for any other.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, diags := loadConfig(*configPath)
			if err := reportDiagnostics(cmd.ErrOrStderr(), *configPath, diags); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %v\n", *configPath, cfg)
			return err
		},
	}
}

// String sums the configuration up: "1 listener, 1 cluster, 3 servers, 2 routes".
func (cfg *config) String() string {
	servers := 0
	for _, cluster := range cfg.Clusters {
		servers += len(cluster.Monitor.Targets)
	}
	return fmt.Sprintf("%s, %s, %s, %s", count(len(cfg.Listeners), "listener"), count(len(cfg.Clusters), "cluster"),
		count(servers, "server"), count(len(cfg.Routes.Routes), "route"))
}
