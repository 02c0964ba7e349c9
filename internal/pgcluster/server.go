package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Server is one PostgreSQL server of a cluster, running or not. Its fields are set before Start returns the cluster
// and do not change. Its methods may be called at any time and concurrently, but those that start the server (Start,
// Restart, Follow, Rebuild) one at a time.
type Server struct {
	Name string // "db1", also the server's cluster_name and application_name
	Host string // "127.0.0.1"
	Port int    // the same in every run

	SocketDir string // of the unix socket, which only root and the user of the servers can reach
	DataDir   string
	LogFile   string // what the server writes to its standard error, all runs one after the other

	cluster *Cluster
	tls     bool // TLS is on

	mu       sync.Mutex
	proc     *process // the run last started; nil before the first
	logStart int64    // where the log of that run begins
}

// ShutdownMode says how a server ends (manual, "Shutting Down the Server").
type ShutdownMode syscall.Signal

const (
	// Smart waits until all sessions have ended by themselves.
	Smart = ShutdownMode(syscall.SIGTERM)
	// Fast ends all sessions, lets the standbys have the last WAL and stops cleanly.
	Fast = ShutdownMode(syscall.SIGINT)
	// Immediate stops at once; the next start recovers as after a crash.
	Immediate = ShutdownMode(syscall.SIGQUIT)
)

// Start starts the server after it was stopped or killed and returns when it answers queries. It waits for children
// that a killed postmaster left behind. A server that runs is no error. After an error the server does not run.
func (s *Server) Start(ctx context.Context) error {
	if s.Alive() {
		return nil
	}
	err := s.clearRemains(ctx)
	if err == nil {
		err = s.launch(ctx)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	return nil
}

// launch starts the postmaster and waits until it answers.
func (s *Server) launch(ctx context.Context) error {
	log, err := os.OpenFile(s.LogFile, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	info, err := log.Stat()
	if err != nil {
		return err
	}
	// Not bound to the context, which ends long before the server does.
	cmd := s.cluster.command(context.Background(), s, "postgres", "-D", s.DataDir)
	cmd.SysProcAttr = s.cluster.account.attributes(syscall.SIGQUIT)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := startProcess(cmd)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.proc, s.logStart = p, info.Size()
	s.mu.Unlock()

	err = s.await(ctx, "it answers", "SELECT true")
	if s.failedToBind() {
		// A server that got only one of its addresses runs, but half of its clients would meet whoever has the other.
		err = fmt.Errorf("%w: %d", errPortTaken, s.Port)
	}
	if err != nil {
		return errors.Join(err, s.KillAll())
	}
	return nil
}

// Stop ends the server and returns when it is gone. When the context ends first, as it does for a frozen server or,
// with Smart, for one whose clients stay, the error says so and the server goes on ending. A server that does not run
// is no error.
func (s *Server) Stop(ctx context.Context, mode ShutdownMode) error {
	p := s.current()
	if p == nil {
		return nil
	}
	if err := p.signal(syscall.Signal(mode)); err != nil {
		return fmt.Errorf("stop %s: %w", s.Name, err)
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", s.Name, context.Cause(ctx))
	}
}

// Restart stops the server in mode Fast and starts it again.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(ctx, Fast); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Reload asks the server to read its configuration files again. It does so soon after, not before Reload returns.
func (s *Server) Reload() error {
	p, err := s.running()
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	return p.signal(syscall.SIGHUP)
}

// Alive tells whether the postmaster has not exited. A frozen one is alive.
func (s *Server) Alive() bool {
	p := s.current()
	return p != nil && p.alive()
}

// PID returns the process id of the postmaster, 0 if it does not run.
func (s *Server) PID() int {
	p, err := s.running()
	if err != nil {
		return 0
	}
	return p.handle.Pid
}

// String returns the name and address of the server.
func (s *Server) String() string { return fmt.Sprintf("%s at %s:%d", s.Name, s.Host, s.Port) }

// current returns the run last started, which may have ended, or nil.
func (s *Server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// running returns the run last started if it has not ended.
func (s *Server) running() (*process, error) {
	if p := s.current(); p != nil && p.alive() {
		return p, nil
	}
	return nil, fmt.Errorf("%s does not run", s.Name)
}

// end stops the server for good, whatever state it is in, and frees what it holds outside its data directory.
func (s *Server) end(ctx context.Context) error {
	_ = s.Thaw() // a frozen server ends in KillAll at the latest
	_ = s.Stop(ctx, Immediate)
	if err := s.KillAll(); err != nil {
		return err
	}
	return s.clearRemains(context.Background())
}

// clearRemains waits until no process of the server is left and clears away what a killed one leaves behind. Only the
// shared memory would matter if it stayed: the rest goes with the directories, or a new server would take it over.
func (s *Server) clearRemains(ctx context.Context) error {
	err := poll(ctx, func() (bool, error) { return !s.Alive() && len(s.processes()) == 0, nil })
	if err != nil {
		return fmt.Errorf("wait for the end of its processes: %w", err)
	}
	lockFile := filepath.Join(s.DataDir, postmasterFile)
	content, err := os.ReadFile(lockFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if id, ok := sharedMemoryID(content); ok {
		if err := removeSharedMemory(id); err != nil {
			return fmt.Errorf("remove shared memory segment %d: %w", id, err)
		}
	}
	socket := filepath.Join(s.SocketDir, socketFile(s.Port))
	for _, path := range []string{socket, socket + ".lock", lockFile} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sharedMemoryID finds the segment in a postmaster.pid. The seventh line holds its key and id (LOCK_FILE_LINE_SHMEM_KEY
// in utils/pidfile.h); a server that had not come so far has no such line.
func sharedMemoryID(lockFile []byte) (int, bool) {
	lines := bytes.Split(lockFile, []byte("\n"))
	if len(lines) < 7 {
		return 0, false
	}
	fields := strings.Fields(string(lines[6]))
	if len(fields) != 2 {
		return 0, false
	}
	id, err := strconv.Atoi(fields[1])
	return id, err == nil
}

// socketFile returns the name of the unix socket for a port.
func socketFile(port int) string { return fmt.Sprintf(".s.PGSQL.%d", port) }
