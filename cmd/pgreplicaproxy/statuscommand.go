package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/internal/admin"
)

// watchPause is the time between two looks of --watch.
const watchPause = 2 * time.Second

func newStatusCommand(configPath *string) *cobra.Command {
	var watch, asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show servers, sessions and certificates of the running program",
		Long: "Show how the program that runs with this configuration is: its servers with their roles, the sessions on them, its\n" +
			"certificates. docs/status.schema.json describes what --json prints.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch && asJSON {
				return usageError{errors.New("--watch and --json do not go together: GET /events tells what changes")}
			}
			c, err := openAdmin(cmd, *configPath, false)
			if err != nil {
				return err
			}
			if watch {
				return watchStatus(cmd, c)
			}
			var st admin.Status
			if err := c.get(cmd.Context(), "/status", &st); err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(st)
			}
			p := newPrinter(cmd.OutOrStdout())
			_, err = fmt.Fprint(p.out, p.status(st))
			return err
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every two seconds, until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}

// watchStatus shows the status until Ctrl-C, on a terminal always at the same place. A program that is not there for a
// moment is waited for.
func watchStatus(cmd *cobra.Command, c *adminClient) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p := newPrinter(cmd.OutOrStdout())
	tick := time.NewTicker(watchPause)
	defer tick.Stop()
	for {
		var st admin.Status
		text := ""
		if err := c.get(ctx, "/status", &st); err != nil {
			text = p.paint(err.Error(), red) + "\n"
		} else {
			text = p.status(st)
		}
		if ctx.Err() != nil {
			return nil
		}
		if isTerminal(p.out) {
			text = "\x1b[H\x1b[2J" + text // cursor home, clear the screen
		}
		if _, err := fmt.Fprintln(p.out, text); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// status lays out a status for people.
func (p printer) status(st admin.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "pgreplicaproxy %s, up for %s, %s, %d logging in\n", st.Version, st.Uptime(), count(st.Sessions, "session"), st.Logins)
	for _, c := range st.Clusters {
		fmt.Fprintf(&b, "\n%s  %s\n", p.paint("Cluster "+c.Name, bold), c.Summary())
		if c.Conflict {
			b.WriteString(p.paint("  Several servers claim to be the primary: pgreplicaproxy accept "+c.Name+" SERVER", red) + "\n")
		}
		if c.StateFile != "" {
			b.WriteString(p.paint("  What is known of its past cannot be kept: "+c.StateFile, red) + "\n")
		}
		b.WriteString(p.table("  ", p.servers(c, st.Time)))
		b.WriteString(p.findings(c))
		if routes := routesOf(st, c); len(routes) > 1 {
			b.WriteString("\n" + p.table("  ", routes))
		}
	}
	if len(st.Certificates) > 0 {
		b.WriteString("\n" + p.paint("Certificates", bold) + "\n" + p.table("  ", certificates(st)))
	}
	return b.String()
}

func (p printer) servers(c admin.Cluster, now time.Time) [][]cell {
	rows := [][]cell{heading("SERVER", "ADDRESS", "ROLE", "TIMELINE", "LAG", "SESSIONS", "SINCE", "STATE")}
	colours := map[string]colour{"primary": blue, "replica": green}
	for _, s := range c.Servers {
		timeline := ""
		if s.Timeline > 0 {
			timeline = fmt.Sprint(s.Timeline)
		}
		rows = append(rows, []cell{
			{text: s.Name},
			{text: s.Address},
			{text: s.Role, colour: colours[s.Role]},
			{text: timeline, right: true},
			{text: s.Lag(), right: true},
			{text: fmt.Sprint(s.Sessions), right: true},
			{text: admin.Age(now, s.Since), right: true},
			stateOf(s),
		})
	}
	return rows
}

// findings are what to mend on the servers of a cluster.
func (p printer) findings(c admin.Cluster) string {
	text := ""
	for _, s := range c.Servers {
		if s.Access == nil {
			continue
		}
		if s.Access.Binding == "broken" {
			text += p.paint("  "+s.Name+": channel binding is broken: clients that bind their login are refused", red) + "\n"
		}
		for _, finding := range s.Access.Findings {
			text += p.paint("  "+s.Name+": "+finding, red) + "\n"
		}
	}
	return text
}

// stateOf says how a server is, in one line.
func stateOf(s admin.Server) cell {
	c := cell{text: s.Status, colour: green}
	if s.Status != "up" {
		c.colour = red
	}
	if s.Lagging {
		c.text, c.colour = c.text+", lagging", yellow
	}
	if s.Ejected {
		c.text, c.colour = c.text+", passed over", yellow
	}
	if s.Drained {
		c.text, c.colour = c.text+", out of service", yellow
	}
	if s.Detail != "" {
		c.text += ": " + s.Detail
	}
	return c
}

// routesOf is the table of the sessions of a cluster by route and server.
func routesOf(st admin.Status, c admin.Cluster) [][]cell {
	names := []string{"DATABASE ASKED FOR", "GOES TO"}
	for _, s := range c.Servers {
		names = append(names, s.Name)
	}
	rows := [][]cell{heading(names...)}
	for _, r := range st.Routes {
		if r.Cluster != c.Name {
			continue
		}
		row := []cell{{text: r.Name}, {text: r.Role}}
		for _, s := range c.Servers {
			row = append(row, cell{text: fmt.Sprint(r.Sessions[s.Name]), right: true})
		}
		rows = append(rows, row)
	}
	return rows
}

func certificates(st admin.Status) [][]cell {
	rows := [][]cell{heading("NAMES", "SOURCE", "STATE")}
	for _, c := range st.Certificates {
		state := cell{text: c.Expiry(), colour: green}
		if c.Bad() {
			state.colour = red
		}
		if c.LastError != "" {
			state.text += ": " + c.LastError
		}
		rows = append(rows, []cell{{text: strings.Join(c.Names, ", ")}, {text: c.Source}, state})
	}
	return rows
}

// afterAMoment tells what is waited for, once that takes longer than a second. The returned function ends it.
func afterAMoment(cmd *cobra.Command, text string) (done func()) {
	if !isTerminal(cmd.ErrOrStderr()) {
		return func() {}
	}
	timer := time.AfterFunc(time.Second, func() { _, _ = fmt.Fprintf(cmd.ErrOrStderr(), "... %s\n", text) })
	return func() { timer.Stop() }
}

// interruptible is the command's context until Ctrl-C.
func interruptible(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
}
