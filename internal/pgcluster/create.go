package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// fillDataDirs initialises the primary's data directory and copies it for each standby. That is sound because no server
// runs: the files are those of a clean shutdown, and from there on a standby follows by streaming.
func (c *Cluster) fillDataDirs(ctx context.Context) error {
	primary := c.servers[0]
	c.progress("initdb")
	if err := c.initdb(ctx, primary); err != nil {
		return err
	}
	if err := primary.configure(); err != nil {
		return err
	}
	if err := c.setPasswords(ctx, primary); err != nil {
		return err
	}
	for _, s := range c.servers[1:] {
		c.progress("cloning %s", s.Name)
		if err := c.account.copyTree(primary.DataDir, s.DataDir, func(string) bool { return true }); err != nil {
			return fmt.Errorf("clone %s: %w", s.Name, err)
		}
	}
	return ctx.Err()
}

// initdb fills a data directory. Small WAL segments make it quick to copy; C is the one locale that is everywhere.
func (c *Cluster) initdb(ctx context.Context, s *Server) error {
	cmd := c.command(ctx, s, "initdb", "-D", s.DataDir, "-U", SuperuserName, "--no-sync", "--auth=trust",
		"--locale=C", "--encoding=UTF8", "--wal-segsize=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, lastLines(out))
	}
	return nil
}

// setPasswords gives the superuser a password and makes the replication role, in single-user mode (manual, postgres,
// "Single-User Mode"). That run also writes our settings into the control file, which matters to standbys: they refuse
// to start with, for one, fewer connections than are noted there.
func (c *Cluster) setPasswords(ctx context.Context, s *Server) error {
	cmd := c.command(ctx, s, "postgres", "--single", "-D", s.DataDir, "-c", "exit_on_error=on",
		"-c", "log_statement=none", "-c", "log_min_error_statement=panic", "postgres")
	cmd.Stdin = strings.NewReader("ALTER ROLE " + SuperuserName + " PASSWORD '" + c.SuperuserPassword + "'\n" +
		"CREATE ROLE " + ReplicationName + " LOGIN REPLICATION PASSWORD '" + c.ReplicationPassword + "'\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("set passwords: %w\n%s", err, lastLines(out))
	}
	return nil
}

// command returns a program that runs as the servers do and dies, with what it started, when the context ends.
func (c *Cluster) command(ctx context.Context, s *Server, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.config.Installation.program(program), args...)
	cmd.Dir = s.DataDir
	cmd.Env = c.config.Installation.environment(c.dir)
	cmd.SysProcAttr = c.account.attributes(0)
	cmd.Cancel = func() error { return signalProcess(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// startAll starts the primary, whose port the standbys must know, and then the standbys at once.
func (c *Cluster) startAll(ctx context.Context) error {
	primary, standbys := c.servers[0], c.servers[1:]
	c.progress("starting primary")
	if err := primary.startOnFreePort(ctx, nil); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range standbys {
		c.progress("starting %s", s.Name)
		group.Go(func() error {
			if err := s.startOnFreePort(ctx, primary); err != nil {
				return err
			}
			return s.waitStreaming(ctx, primary)
		})
	}
	return group.Wait()
}

// startOnFreePort starts a server for the first time, as a standby unless primary is nil.
func (s *Server) startOnFreePort(ctx context.Context, primary *Server) error {
	for try := 1; ; try++ {
		if err := s.configure(); err != nil {
			return err
		}
		if primary != nil {
			if err := s.pointTo(primary); err != nil {
				return err
			}
		}
		err := s.Start(ctx)
		if !errors.Is(err, errPortTaken) || try == maxPortTries {
			return err
		}
		if s.Port, err = freePort(); err != nil {
			return err
		}
	}
}

// configure writes the files that configure the server, as one that follows nobody.
func (s *Server) configure() error {
	account := s.cluster.account
	s.tls = false
	if certificate := s.cluster.config.TLS; certificate != nil {
		certPEM, keyPEM := certificate(s.Name)
		if len(certPEM) > 0 {
			s.tls = true
			if err := account.writeFile(filepath.Join(s.DataDir, certFile), certPEM); err != nil {
				return err
			}
			if err := account.writeFile(filepath.Join(s.DataDir, keyFile), keyPEM); err != nil {
				return err
			}
		}
	}
	conf, err := s.serverConf()
	if err != nil {
		return err
	}
	if err := account.writeFile(filepath.Join(s.DataDir, configFile), conf); err != nil {
		return err
	}
	if err := account.writeFile(filepath.Join(s.DataDir, primaryInfoFile), nil); err != nil {
		return err
	}
	return account.writeFile(filepath.Join(s.DataDir, hbaFile), s.cluster.config.hbaConf())
}

// copyTree copies what is in one directory into another that exists. Both files and directories, which are named by
// their path below from, are left out with all below them when wanted says so. A file that vanishes meanwhile is left
// out too.
func (a account) copyTree(from, to string, wanted func(name string) bool) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || path == from {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case !wanted(name):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			return a.mkdir(filepath.Join(to, name))
		case !entry.Type().IsRegular():
			return fmt.Errorf("%q is no regular file: tablespaces are not supported", path)
		}
		err = a.copyFile(path, filepath.Join(to, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

// lastLines returns the end of what a program printed, enough to see why it failed.
func lastLines(out []byte) string {
	const most = 15
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
