package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/discovery"
	"github.com/replicon/pgreplicaproxy/policy"
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
	var servers, explaining bool
	cmd := &cobra.Command{
		Use:   "check [--servers] [--explain " + explainUsage + "]",
		Short: "Check the configuration",
		Long: `Check the configuration and the files it refers to, without listening or connecting anywhere.

All mistakes are told at once, each with its line and what to write instead. The exit code is 0 for a valid file,
though there be warnings, and 2 for any other.

With --servers also log in to every server as the monitor will, and tell what is wrong with its access rules: a
password that does not fit, trust for this address in pg_hba.conf, the function for SCRAM secrets missing. The exit code
is 1 then if anything is.

With --explain tell instead which access block and which route a client meets, described by the arguments; only user is
needed. The exit code is 1 where the client would be refused.`,
		Example: "  pgreplicaproxy check --explain user=app database=app_replica from=10.1.2.3",
		Args: func(cmd *cobra.Command, args []string) error {
			if explaining {
				return nil
			}
			return cobra.NoArgs(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return requestWords(), cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var request policy.Request
			if explaining {
				var err error
				if request, err = parseRequest(args); err != nil {
					return usageError{err}
				}
			}
			cfg, diags := loadConfig(*configPath)
			if err := reportDiagnostics(cmd.ErrOrStderr(), *configPath, diags); err != nil {
				return err
			}
			if explaining {
				return explain(cmd.OutOrStdout(), cfg, request)
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: %v\n", *configPath, cfg); err != nil || !servers {
				return err
			}
			return checkServers(cmd.Context(), cmd.OutOrStdout(), cfg)
		},
	}
	cmd.Flags().BoolVar(&servers, "servers", false, "also log in to every server and look at its access rules")
	cmd.Flags().BoolVar(&explaining, "explain", false, "tell which access block and which route a client meets")
	cmd.MarkFlagsMutuallyExclusive("servers", "explain")
	return cmd
}

// checkServers prints one line for each server that is fine, and one for each thing to mend. Servers that are looked up are
// looked up once.
func checkServers(ctx context.Context, w io.Writer, cfg *config) error {
	ignoreClientEnvironment()
	var lines []string
	wrong := 0
	for _, cluster := range cfg.Clusters {
		name := cluster.Monitor.Cluster
		found, err := discovery.Lookup(ctx, cluster.Discovery)
		if err != nil {
			wrong++
			lines = append(lines, fmt.Sprintf("%s: %v", name, err))
		}
		for _, target := range slices.Concat(cluster.Monitor.Targets, found.Targets) {
			findings := backends.Inspect(ctx, target, cluster.Monitor, cfg.secretScope(name) != noSecrets).Findings
			if len(findings) == 0 {
				lines = append(lines, fmt.Sprintf("%s/%s: ok", name, target.Name))
			}
			for _, finding := range slices.Sorted(maps.Keys(findings)) {
				wrong++
				lines = append(lines, fmt.Sprintf("%s/%s: %s: %s", name, target.Name, finding, findings[finding]))
			}
		}
	}
	if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%s to mend", count(wrong, "thing"))
	}
	return nil
}

// String sums the configuration up: "1 listener, 1 cluster, 3 servers, 2 routes". Servers that are looked up are not known here.
func (cfg *config) String() string {
	servers, sources := 0, 0
	for _, cluster := range cfg.Clusters {
		servers += len(cluster.Monitor.Targets)
		sources += len(cluster.Discovery.Names)
		if cluster.Discovery.Patroni != nil {
			sources++
		}
	}
	text := count(servers, "server")
	if sources > 0 {
		text += " and " + count(sources, "source") + " of servers"
	}
	return fmt.Sprintf("%s, %s, %s, %s", count(len(cfg.Listeners), "listener"), count(len(cfg.Clusters), "cluster"),
		text, count(len(cfg.Routes.Routes), "route"))
}
