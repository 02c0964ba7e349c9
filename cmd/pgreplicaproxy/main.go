// Command pgreplicaproxy is the secure front door of a PostgreSQL cluster: it terminates TLS, routes sessions by database
// name to the primary or a replica, and ends them when their server changes its role.
//
// This package is the program's edge, and the only place that knows the command line, signals, the configuration format
// and the choice of log output. Read main.go for the commands, config.go for the file, serve.go for how the parts are
// put together and taken down; then package internal/proxy.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker for a release.
var version = ""

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes: 0 fine, 1 failed at run time, 2 bad usage or bad configuration.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// run is the program without its process: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	err := root.Execute()
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		_, _ = fmt.Fprintln(stderr, "pgreplicaproxy:", err)
		return exitUsage
	case !started: // the command line itself was wrong
		_, _ = fmt.Fprintln(stderr, "pgreplicaproxy:", err)
		_, _ = fmt.Fprintln(stderr, `Run "pgreplicaproxy help" for the commands.`)
		return exitUsage
	default:
		_, _ = fmt.Fprintln(stderr, "pgreplicaproxy:", err)
		return exitFailed
	}
}

func newRootCommand() *cobra.Command {
	var configPath string
	root := &cobra.Command{
		Use:           "pgreplicaproxy",
		Short:         "The secure front door of a PostgreSQL cluster",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVarP(&configPath, "config", "c", "pgreplicaproxy.hcl", "configuration file")
	root.AddCommand(
		newServeCommand(&configPath),
		newCheckCommand(&configPath),
		newFmtCommand(&configPath),
		newDemoCommand(),
		newCACommand(&configPath),
		newSQLCommand(&configPath),
		newStatusCommand(&configPath),
		newSessionsCommand(&configPath),
		newDrainCommand(&configPath),
		newUndrainCommand(&configPath),
		newAcceptCommand(&configPath),
		newForgetCommand(&configPath),
		newReloadCommand(&configPath),
		newUpgradeCommand(&configPath),
		newVersionCommand(),
	)
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit it was built from, and the Go it was built with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pgreplicaproxy %s %s %s %s/%s\n",
				buildVersion(), buildCommit(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// buildVersion returns the release, or "devel".
func buildVersion() string {
	if version != "" {
		return version
	}
	return "devel"
}

// buildCommit returns the commit that was built, with "+dirty" behind it when files were changed, or "unknown".
func buildCommit() string {
	commit, dirty := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = s.Value[:min(len(s.Value), 12)]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+dirty"
			}
		}
	}
	return commit + dirty
}

// stops are the two ways a process is asked to stop: the first signal asks to drain, the second to end at once.
type stops struct {
	drain <-chan struct{}
	now   context.Context
}

// notifyStops turns SIGTERM, SIGINT and the others named into stops until release is called. SIGPIPE stops nothing: a log that
// nobody reads any more is no reason to end sessions.
func notifyStops(others ...os.Signal) (s stops, release func()) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, append(others, syscall.SIGTERM, syscall.SIGINT)...)
	drain := make(chan struct{})
	now, end := context.WithCancel(context.Background())
	go func() {
		select {
		case <-signals:
			close(drain)
		case <-now.Done():
			return
		}
		select {
		case <-signals:
			end()
		case <-now.Done():
		}
	}()
	return stops{drain: drain, now: now}, func() {
		signal.Stop(signals)
		end()
	}
}
