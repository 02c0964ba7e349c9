package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Promote makes a standby a primary and returns when it accepts writes. A server that is a primary is an error.
func (s *Server) Promote(ctx context.Context) error {
	if err := s.Exec(ctx, "postgres", "SELECT pg_promote(wait => false)"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if err := s.await(ctx, "it is promoted", "SELECT NOT pg_is_in_recovery()"); err != nil {
		return fmt.Errorf("promote %s: %w", s.Name, err)
	}
	return nil
}

// Follow makes the server a standby of upstream, itself primary or standby, and returns when it streams from it. A
// running standby only reloads, so its sessions live on; a running primary is restarted, and a stopped server
// started.
//
// A server that has WAL which upstream never had cannot follow: it logs that its timeline is not in the history of
// the other, and Follow waits in vain until the context ends. That happens to a primary that was killed, seldom to
// one that was stopped in mode Fast before another was promoted. Rebuild brings it back.
func (s *Server) Follow(ctx context.Context, upstream *Server) error {
	inRecovery := false
	if s.Alive() {
		answer, err := s.QueryString(ctx, "postgres", "SELECT pg_is_in_recovery()")
		if err != nil {
			return fmt.Errorf("follow: %w", err)
		}
		inRecovery = answer == "t"
	}
	if err := s.pointTo(upstream); err != nil {
		return fmt.Errorf("make %s follow: %w", s.Name, err)
	}
	turn := s.Restart
	if inRecovery {
		turn = func(context.Context) error { return s.Reload() }
	}
	if err := turn(ctx); err != nil {
		return err
	}
	return s.waitStreaming(ctx, upstream)
}

// Rebuild kills the server, replaces its data by a copy of the running primary's and makes it a standby of that. It is
// what a failed primary needs which cannot Follow.
func (s *Server) Rebuild(ctx context.Context, primary *Server) error {
	if err := s.rebuild(ctx, primary); err != nil {
		return fmt.Errorf("rebuild %s from %s: %w", s.Name, primary.Name, err)
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	return s.waitStreaming(ctx, primary)
}

// rebuild does all of Rebuild but the start.
func (s *Server) rebuild(ctx context.Context, primary *Server) error {
	if err := s.KillAll(); err != nil {
		return err
	}
	if err := s.clearRemains(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(s.DataDir); err != nil {
		return err
	}
	if err := s.cluster.account.mkdir(s.DataDir); err != nil {
		return err
	}
	if err := s.copyRunning(ctx, primary); err != nil {
		return err
	}
	if err := s.configure(); err != nil {
		return err
	}
	return s.pointTo(primary)
}

// copyRunning copies the data directory of a running primary (manual, "Making a Base Backup Using the
// Low Level API"). The WAL since its start is not copied: the standby fetches it, as wal_keep_size has kept it.
func (s *Server) copyRunning(ctx context.Context, primary *Server) error {
	// The names changed in version 15.
	begin, end := "SELECT pg_backup_start('pgcluster', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if s.cluster.config.Installation.Version < 15 {
		begin, end = "SELECT pg_start_backup('pgcluster', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	conn, err := primary.Conn(ctx, "postgres") // the backup ends with this connection, at the latest
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, begin).ReadAll(); err != nil {
		return fmt.Errorf("begin backup: %w", err)
	}
	if err := s.cluster.account.copyTree(primary.DataDir, s.DataDir, partOfBackup); err != nil {
		return err
	}
	results, err := conn.Exec(ctx, end).ReadAll()
	if err != nil {
		return fmt.Errorf("end backup: %w", err)
	}
	return s.writeLabel(results)
}

// writeLabel writes the backup label, without which the server would take itself for one that merely crashed.
func (s *Server) writeLabel(results []*pgconn.Result) error {
	label, err := firstValue(results)
	if err != nil {
		return err
	}
	if label == "" {
		return errors.New("the server returned no backup label")
	}
	return s.cluster.account.writeFile(filepath.Join(s.DataDir, backupLabelFile), []byte(label))
}

// partOfBackup tells whether a file belongs into a backup. The directories whose content does not must be there all
// the same (manual, "Backing Up the Data Directory").
func partOfBackup(name string) bool {
	top, below, inDir := strings.Cut(name, string(filepath.Separator))
	switch top {
	case postmasterFile, "postmaster.opts", standbySignal, primaryInfoFile, certFile, keyFile:
		return false
	case "pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans":
		return !inDir
	}
	return !strings.HasPrefix(filepath.Base(below), "pgsql_tmp")
}

// pointTo writes which server to follow; it takes effect at the next start or reload.
func (s *Server) pointTo(upstream *Server) error {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace // manual, "Keyword/Value Connection Strings"
	info := fmt.Sprintf("host=%s port=%d user=%s passfile='%s' application_name=%s connect_timeout=5",
		upstream.Host, upstream.Port, ReplicationName, quote(s.cluster.passFile()), s.Name)
	var conf strings.Builder
	if err := appendSetting(&conf, "primary_conninfo", info); err != nil {
		return err
	}
	account := s.cluster.account
	if err := account.writeFile(filepath.Join(s.DataDir, primaryInfoFile), []byte(conf.String())); err != nil {
		return err
	}
	return account.writeFile(filepath.Join(s.DataDir, standbySignal), nil)
}

// waitStreaming waits until the server streams from upstream.
func (s *Server) waitStreaming(ctx context.Context, upstream *Server) error {
	err := s.await(ctx, "it streams from "+upstream.Name, "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver "+
		"WHERE status = 'streaming' AND sender_port = "+strconv.Itoa(upstream.Port)+")")
	if err != nil {
		return fmt.Errorf("make %s follow %s: %w", s.Name, upstream.Name, err)
	}
	return nil
}

// WaitReplay waits until the server, a standby, has replayed all that was committed on upTo, primary or standby,
// before the call, so that a query on it sees that. Commits with synchronous_commit off may be missing.
func (s *Server) WaitReplay(ctx context.Context, upTo *Server) error {
	const position = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
	lsn, err := upTo.QueryString(ctx, "postgres", "SELECT "+position)
	if err != nil {
		return fmt.Errorf("ask %s for its position: %w", upTo.Name, err)
	}
	err = s.await(ctx, "it has replayed "+lsn, "SELECT "+position+" >= '"+lsn+"'")
	if err != nil {
		return fmt.Errorf("replay on %s: %w", s.Name, err)
	}
	return nil
}
