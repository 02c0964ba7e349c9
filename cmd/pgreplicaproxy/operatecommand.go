package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/internal/admin"
)

// act has the running program do something, and prints what it says.
func act(cmd *cobra.Command, configPath, doing, path string, form ...string) error {
	c, err := openAdmin(cmd, configPath, true)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(cmd)
	defer stop()
	done := afterAMoment(cmd, doing)
	defer done()
	text, err := c.post(ctx, path, form...)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func newDrainCommand(configPath *string) *cobra.Command {
	var cluster string
	var wait bool
	cmd := &cobra.Command{
		Use:   "drain SERVER",
		Short: "Take a server out of service",
		Long: "Take a server out of service: it gets no new sessions, and those on it end once they are idle, at the latest after\n" +
			"drain_timeout. It stays so until undrain, or until the program ends.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := act(cmd, *configPath, "draining "+args[0], "/drain", "cluster", cluster, "backend", args[0]); err != nil || !wait {
				return err
			}
			c, err := openAdmin(cmd, *configPath, false)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			return waitEmpty(ctx, cmd, c, cluster, args[0])
		},
	}
	clusterFlag(cmd, &cluster)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until no session is left there")
	return cmd
}

// waitEmpty waits until a server has no sessions, and tells how many are left whenever that has changed.
func waitEmpty(ctx context.Context, cmd *cobra.Command, c *adminClient, cluster, server string) error {
	tick := time.NewTicker(time.Second / 2)
	defer tick.Stop()
	for last := -1; ; {
		var st admin.Status
		if err := c.get(ctx, "/status", &st); err != nil {
			return err
		}
		left := sessionsOn(st, cluster, server)
		if left != last {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s left on %s\n", count(left, "session"), server)
		}
		if last = left; left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("interrupted with %s left; %s stays out of service", count(left, "session"), server)
		}
	}
}

func sessionsOn(st admin.Status, cluster, server string) int {
	for _, c := range st.Clusters {
		for _, s := range c.Servers {
			if s.Name == server && (cluster == "" || cluster == c.Name) {
				return s.Sessions
			}
		}
	}
	return 0
}

func newUndrainCommand(configPath *string) *cobra.Command {
	var cluster string
	cmd := &cobra.Command{
		Use:   "undrain SERVER",
		Short: "Take a server back into service",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return act(cmd, *configPath, "taking "+args[0]+" back", "/undrain", "cluster", cluster, "backend", args[0])
		},
	}
	clusterFlag(cmd, &cluster)
	return cmd
}

func clusterFlag(cmd *cobra.Command, cluster *string) {
	cmd.Flags().StringVar(cluster, "cluster", "", "the server's cluster, where there are several")
}

func newAcceptCommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "accept CLUSTER SERVER",
		Short: "Say which server is the primary, when several claim it",
		Long: "Say which server is the primary, when the program will not decide: several servers claim it, or the one that does\n" +
			"speaks of an older past than was seen before. Make sure that nobody writes to the others first.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return act(cmd, *configPath, "accepting "+args[1], "/accept", "cluster", args[0], "backend", args[1])
		},
	}
}

func newForgetCommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "forget CLUSTER",
		Short: "Forget what is remembered of a cluster's past",
		Long: "Forget what is remembered of a cluster: which cluster it is, who was its primary, and on which timeline. It is for a\n" +
			"cluster that was made anew, from a backup or by pg_upgrade.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return act(cmd, *configPath, "forgetting", "/forget", "cluster", args[0])
		},
	}
}

func newUpgradeCommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade",
		Short: "Hand over from the running program to a new process",
		Long: "Have the running program start its file anew, which may be another version by now, as SIGUSR2 does, and wait until the\n" +
			"new process serves new clients. Sessions stay with the old one for drain_timeout. If the new process fails, nothing\n" +
			"changes, and the log says why.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return act(cmd, *configPath, "upgrading", "/upgrade")
		},
	}
}

func newReloadCommand(configPath *string) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running program read its configuration again",
		Long: "Have the running program read its configuration again, as SIGHUP does, and print what it says. A file with mistakes\n" +
			"changes nothing.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return act(cmd, *configPath, "reloading", "/reload")
		},
	}
}
