package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

const (
	// demoDirPattern is what directories of demos are called, in the directory for temporary files.
	demoDirPattern = "pgreplicaproxy-demo-*"
	// failoverSocket is where a demo waits in its directory for somebody who wants to see a failover.
	failoverSocket = "failover.sock"
)

func newDemoFailoverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "failover",
		Short: "Kill the primary of the running demo and promote a standby",
		Long: "Kill the primary of the demo that runs in another terminal, promote a standby, and bring the old primary back as a\n" +
			"standby: what a cluster manager does, to watch what the proxy makes of it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sockets, err := filepath.Glob(filepath.Join(os.TempDir(), demoDirPattern, failoverSocket))
			if err != nil {
				return err
			}
			for _, path := range sockets {
				conn, err := net.Dial("unix", path)
				if err != nil {
					continue // of a demo that was killed, or of another user
				}
				_, err = io.Copy(cmd.OutOrStdout(), conn)
				return errors.Join(err, conn.Close())
			}
			return errors.New("no demo is running: start one with `pgreplicaproxy demo`")
		},
	}
}

// offerFailovers makes a failover for each connection to the demo's socket, one after the other, until ctx ends.
func (d *demo) offerFailovers(ctx context.Context) (stop func(), err error) {
	ln, err := net.Listen("unix", filepath.Join(d.dir, failoverSocket))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var offering sync.WaitGroup
	offering.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			tell := func(text string) { _, _ = fmt.Fprintln(conn, "...", text) }
			if err := d.failover(ctx, tell); err != nil {
				tell("failed: " + err.Error())
			}
			_ = conn.Close()
		}
	})
	return func() {
		cancel()
		_ = ln.Close()
		offering.Wait()
	}, nil
}

// failover does to the demo's cluster what a crash of the primary and a cluster manager do.
func (d *demo) failover(ctx context.Context, tell func(string)) error {
	var old, next *pgcluster.Server
	for _, s := range d.cluster.Servers() {
		if !s.Alive() {
			continue
		}
		standby, err := s.QueryString(ctx, "postgres", "SELECT pg_is_in_recovery()")
		switch {
		case err != nil:
			return err
		case standby == "f":
			old = s
		case next == nil:
			next = s
		}
	}
	if old == nil || next == nil {
		return errors.New("a failover needs a primary and a standby")
	}
	tell("killing the primary, " + old.Name)
	if err := old.KillAll(); err != nil {
		return err
	}
	tell("promoting " + next.Name)
	if err := next.Promote(ctx); err != nil {
		return err
	}
	for _, s := range d.cluster.Servers() {
		if s == old || s == next {
			continue
		}
		tell(s.Name + " follows it")
		if err := s.Follow(ctx, next); err != nil {
			return err
		}
	}
	tell("bringing " + old.Name + " back as a standby")
	if err := old.Rebuild(ctx, next); err != nil {
		return err
	}
	tell("done: " + next.Name + " is the primary")
	return nil
}
