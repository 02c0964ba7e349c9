package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/internal/handover"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// upgradeTimeout bounds the start of a successor, until it serves clients: it asks every server first.
const upgradeTimeout = time.Minute

// process is what this process is to others: what it was given at its start, and how the one is started that replaces it. Nil is
// one that was given nothing.
type process struct {
	program     handover.Program
	given       *handover.Sockets
	predecessor *handover.Predecessor // nil for none
	pidFile     string                // empty for none
}

// newProcess is called first of all: see the functions of package handover.
func newProcess(pidFile string) (*process, error) {
	program, err := handover.ThisProgram()
	if err != nil {
		return nil, err
	}
	given, predecessor, err := handover.Inherit()
	if err != nil {
		return nil, err
	}
	return &process{program: program, given: given, predecessor: predecessor, pidFile: pidFile}, nil
}

// listen opens the socket of a listener, or takes the one that this process was given for it.
func (p *process) listen(key socketKey, l listenerConfig) (net.Listener, error) {
	if p != nil {
		if ln := p.given.Take(key); ln != nil {
			return ln, nil
		}
	}
	return listen(l)
}

// unused is an error where systemd has opened sockets that no listener is for.
func (p *process) unused() error {
	if p == nil {
		return nil
	}
	return p.given.Unused()
}

// predecessors are the sockets for cancel requests of the processes before this one.
func (p *process) predecessors() []string {
	if p == nil || p.predecessor == nil {
		return nil
	}
	return strings.Split(p.predecessor.Note, "\n")
}

// serves is called when clients are accepted. From here on a predecessor serves none that are new.
func (p *process) serves(manager serviceManager) error {
	if p == nil {
		return nil
	}
	if p.pidFile != "" {
		if err := os.WriteFile(p.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return fmt.Errorf("write pid file: %w", err)
		}
	}
	if p.predecessor == nil {
		manager.ready()
		return nil
	}
	err := p.predecessor.Ready() // which tells the manager
	p.given.Keep()
	return err
}

// ends removes the pid file, unless a successor has written it by now.
func (p *process) ends() {
	if content, err := os.ReadFile(p.pidFile); err == nil && string(content) == fmt.Sprintln(os.Getpid()) {
		_ = os.Remove(p.pidFile)
	}
}

// Upgrade replaces this process by a new one, as SIGUSR2 does. The text tells its number. It may be called from anywhere.
func (s *service) Upgrade(ctx context.Context) (text string, err error) { return s.ask(ctx, true) }

// upgrade is Upgrade for run, which is to serve no new clients when it has succeeded. Where it has not, nothing has changed. The
// end of changes gives up, that of ctx ends what goes on for the successor.
func (s *service) upgrade(ctx, changes context.Context) (text string, err error) {
	s.log.Info("upgrading")
	pid, err := s.succeed(ctx, changes)
	if err != nil {
		s.log.Error("upgrade failed, this process goes on", "err", err)
		s.tell(events.Error, "upgrade failed: %v", err)
		return "", fmt.Errorf("upgrade failed, the old process goes on: %w", err)
	}
	s.manager.replaced(pid)
	s.log.Info("upgraded", "successor", pid)
	return fmt.Sprintf("process %d serves new clients now", pid), nil
}

// succeed starts the program anew, and returns once the new process serves clients on the same sockets.
func (s *service) succeed(ctx, changes context.Context) (pid int, err error) {
	cancels, err := listenForCancels()
	if err != nil {
		return 0, err
	}
	next := handover.Successor{
		Listeners: s.sockets.listeners(),
		Note:      strings.Join(append(stillThere(s.process.predecessors()), cancels.Addr().String()), "\n"),
	}
	starting, done := context.WithTimeout(changes, upgradeTimeout)
	defer done()
	if pid, err = next.Start(starting, s.process.program); err != nil {
		closeCancels(cancels)
		return 0, err
	}
	next.Release()
	s.serveCancels(ctx, cancels)
	return pid, nil
}

// serveCancels takes cancel requests that a successor has got for sessions of this process, until ctx ends.
func (s *service) serveCancels(ctx context.Context, ln net.Listener) {
	front := s.front(s.current.Load(), listenerConfig{ProxyProtocolFrom: tlsfront.Peers{Unix: true}})
	front.Gate, front.Observe = nil, nil // the successor has let them in, and counted them
	s.parts.Go(func() { _ = front.Serve(ctx, ln, s.server.ServeCancel) })
	s.parts.Go(func() {
		<-ctx.Done()
		closeCancels(ln)
	})
}

// listenForCancels opens a socket that only this user can reach, in a directory of its own: there a successor asks for sessions
// that it does not know.
func listenForCancels() (net.Listener, error) {
	dir, err := os.MkdirTemp("", "pgreplicaproxy-")
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "cancel"))
	if err != nil {
		_ = os.RemoveAll(dir)
	}
	return ln, err
}

// closeCancels closes what listenForCancels has opened.
func closeCancels(ln net.Listener) {
	_ = ln.Close()
	_ = os.RemoveAll(filepath.Dir(ln.Addr().String()))
}

// stillThere are those of the sockets that are still there.
func stillThere(paths []string) []string {
	var there []string
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			there = append(there, path)
		}
	}
	return there
}
