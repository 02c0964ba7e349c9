package pgcluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cluster is a running primary and its standbys. Its methods may be called concurrently, except for Stop, of which
// one call must end before the next. It prints as its directory and the names of its servers, never with its
// passwords.
type Cluster struct {
	// SuperuserPassword is that of SuperuserName, for connections over TCP. It is made up anew for each cluster.
	SuperuserPassword string
	// ReplicationPassword is that of ReplicationName.
	ReplicationPassword string

	config  Config
	account account
	dir     string
	made    []string // what Stop removes, in the order in which it was made
	servers []*Server
	logs    logCopier
}

// Start makes a cluster and returns when every server answers queries and every standby streams. The context bounds the
// making, not the life of the cluster: the caller must call Stop. Each cluster is initialised anew, so no two share
// a system identifier. On error nothing is left, neither running nor on disk, and the error holds what the server that
// failed logged last.
func Start(ctx context.Context, config Config) (_ *Cluster, err error) {
	c, err := newCluster(config)
	if err != nil {
		return nil, fmt.Errorf("make cluster: %w", err)
	}
	defer func() {
		if err != nil {
			ended, cancel := context.WithCancel(context.WithoutCancel(ctx))
			cancel() // no time for an orderly end
			err = fmt.Errorf("make cluster: %w", errors.Join(err, c.Stop(ended)))
		}
	}()
	if err := c.layOut(); err != nil {
		return nil, err
	}
	if config.Log != nil {
		c.logs.start(config.Log, c.servers)
	}
	if err := c.fillDataDirs(ctx); err != nil {
		return nil, err
	}
	if err := c.startAll(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// newCluster checks the configuration; it touches nothing.
func newCluster(config Config) (*Cluster, error) {
	if err := checkSupported(); err != nil {
		return nil, err
	}
	if config.Installation.Version < oldestVersion {
		return nil, fmt.Errorf("PostgreSQL %d or later is needed, %q has %d",
			oldestVersion, config.Installation.BinDir, config.Installation.Version)
	}
	if config.Standbys < 0 {
		return nil, fmt.Errorf("%d standbys", config.Standbys)
	}
	account, err := serverAccount(config.User)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		SuperuserPassword:   rand.Text(),
		ReplicationPassword: rand.Text(),
		config:              config,
		account:             account,
	}, nil
}

// Servers returns the servers in the order of their names; the first began as the primary. The slice is the caller's.
func (c *Cluster) Servers() []*Server { return append([]*Server(nil), c.servers...) }

// Server returns the server of that name ("db1"), or nil.
func (c *Cluster) Server(name string) *Server {
	for _, s := range c.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Dir is the directory that holds the data directories and logs.
func (c *Cluster) Dir() string { return c.dir }

// stopPatience bounds the orderly part of Stop. A postmaster itself gives its children 5 s
// (SIGKILL_CHILDREN_AFTER_SECS in postmaster.c) before it kills them.
const stopPatience = 10 * time.Second

// Stop ends all servers, frozen and killed ones too, and removes everything that the cluster made. When the context
// ends, or has ended before, they are killed instead of shut down; nothing is left in either case, unless the error
// says so. Stop may be called again; the cluster cannot be started again.
func (c *Cluster) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	var group errgroup.Group
	for _, s := range c.servers {
		group.Go(func() error { return s.end(ctx) })
	}
	err := group.Wait()
	c.logs.stop()
	for i := len(c.made) - 1; i >= 0; i-- {
		err = errors.Join(err, os.RemoveAll(c.made[i]))
	}
	if err != nil {
		return fmt.Errorf("stop cluster: %w", err)
	}
	return nil
}

// String describes the cluster without its secrets.
func (c *Cluster) String() string {
	names := make([]string, len(c.servers))
	for i, s := range c.servers {
		names[i] = s.Name
	}
	return fmt.Sprintf("cluster of %s in %s", strings.Join(names, ", "), c.dir)
}

// Format prints what String returns whatever the verb, so that %+v and %#v hold no secret.
func (c *Cluster) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue logs what String returns.
func (c *Cluster) LogValue() slog.Value { return slog.StringValue(c.String()) }

// layOut makes the directories and the files next to the data directories.
func (c *Cluster) layOut() error {
	if err := c.makeDir(); err != nil {
		return err
	}
	sockets, err := c.makeSocketDir()
	if err != nil {
		return err
	}
	if err := c.make(c.passFile(), func(path string) error {
		return c.account.writeFile(path, []byte("*:*:*:"+ReplicationName+":"+c.ReplicationPassword+"\n"))
	}); err != nil {
		return err
	}
	for i := range 1 + c.config.Standbys {
		name := fmt.Sprintf("db%d", i+1)
		port, err := freePort()
		if err != nil {
			return err
		}
		s := &Server{
			Name:      name,
			Host:      loopback,
			Port:      port,
			SocketDir: sockets,
			DataDir:   filepath.Join(c.dir, name),
			LogFile:   filepath.Join(c.dir, name+".log"),
			cluster:   c,
		}
		if err := c.make(s.DataDir, c.account.mkdir); err != nil {
			return err
		}
		if err := c.make(s.LogFile, createFile); err != nil {
			return err
		}
		c.servers = append(c.servers, s)
	}
	return nil
}

// make makes a file or directory that Stop is to remove.
func (c *Cluster) make(path string, how func(path string) error) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%q exists", path) // it is not ours, so Stop must not remove it
	}
	c.made = append(c.made, path)
	return how(path)
}

// makeDir finds or makes the directory for everything.
func (c *Cluster) makeDir() error {
	dir, err := filepath.Abs(c.config.Dir)
	if err != nil {
		return err
	}
	if c.config.Dir == "" {
		if dir, err = os.MkdirTemp("", "pgcluster-"); err != nil {
			return err
		}
		c.made = append(c.made, dir)
		err = c.account.own(dir)
	} else if _, err = os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		err = c.make(dir, c.account.mkdir)
	}
	if err != nil {
		return err
	}
	// The kernel shows working directories without symbolic links, and that is how we find the processes.
	if c.dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	return c.account.checkReachable(c.dir)
}

// maxSocketPath is what fits in sun_path (unix(7)): 108 bytes with the null at the end.
const maxSocketPath = 107

// makeSocketDir makes the directory for the unix sockets: below the cluster's, or directly in /tmp where
// the path would be too long for a socket.
func (c *Cluster) makeSocketDir() (string, error) {
	dir := filepath.Join(c.dir, "sockets")
	if len(filepath.Join(dir, socketFile(topPort))) <= maxSocketPath {
		return dir, c.make(dir, c.account.mkdir)
	}
	dir, err := os.MkdirTemp("/tmp", "pgcluster-sockets-")
	if err != nil {
		return "", err
	}
	c.made = append(c.made, dir)
	return dir, c.account.own(dir)
}

// passFile is the path of the password file with which the standbys log in: unlike primary_conninfo, which a server
// logs when it changes, nobody prints it.
func (c *Cluster) passFile() string { return filepath.Join(c.dir, "replication.pgpass") }

// progress reports a step.
func (c *Cluster) progress(format string, args ...any) {
	if c.config.Progress != nil {
		c.config.Progress(fmt.Sprintf(format, args...))
	}
}

// createFile makes an empty file that only this process's user may read.
func createFile(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}
