package main

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/internal/admin"
)

func newSessionsCommand(configPath *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "List the sessions of the running program, or end one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openAdmin(cmd, *configPath, false)
			if err != nil {
				return err
			}
			var list admin.SessionList
			if err := c.get(cmd.Context(), "/sessions", &list); err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(list)
			}
			var st admin.Status
			if err := c.get(cmd.Context(), "/status", &st); err != nil {
				return err
			}
			p := newPrinter(cmd.OutOrStdout())
			_, err = fmt.Fprint(p.out, p.table("", sessionRows(list, st)))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	cmd.AddCommand(&cobra.Command{
		Use:   "end ID...",
		Short: "End sessions, by the numbers that the list shows",
		Long:  "End sessions at once, as pg_terminate_backend does. Their clients get error 57P01.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, id := range args {
				if _, err := strconv.ParseUint(id, 10, 64); err != nil {
					return usageError{fmt.Errorf("%q is not the number of a session: `pgreplicaproxy sessions` lists them", id)}
				}
			}
			for _, id := range args {
				if err := act(cmd, *configPath, "ending session "+id, "/sessions/"+id+"/end"); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return cmd
}

func sessionRows(list admin.SessionList, st admin.Status) [][]cell {
	rows := [][]cell{heading("ID", "CLIENT", "USER", "DATABASE", "SERVER", "STATE", "FOR", "IN", "OUT")}
	colours := map[string]colour{"active": green, "login": yellow, "ending": yellow}
	for _, s := range list.Sessions {
		server := s.Backend
		if len(st.Clusters) > 1 && server != "" {
			server = s.Cluster + "/" + server
		}
		rows = append(rows, []cell{
			{text: fmt.Sprint(s.ID), right: true},
			{text: s.Client},
			{text: s.User},
			{text: s.Database},
			{text: server},
			{text: s.State, colour: colours[s.State]},
			{text: admin.Age(st.Time, s.Since), right: true},
			{text: admin.ByteSize(float64(s.ToServer)), right: true},
			{text: admin.ByteSize(float64(s.ToClient)), right: true},
		})
	}
	return rows
}
