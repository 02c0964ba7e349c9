//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// proxy is a proxy at work or, with no command, a direct connection.
type proxy struct {
	endpoint
	cmd    *exec.Cmd
	dir    string
	exited chan struct{} // closed once the process is reaped
}

// patience bounds every wait for something that is to happen soon. It is no expectation of speed.
const patience = 60 * time.Second

// start starts a target and returns when a client has logged in through it. The caller stops it.
func (r *rig) start(ctx context.Context, t target) (*proxy, error) {
	if t.launch == nil {
		return &proxy{endpoint: endpoint{port: r.server.Port, plain: t.plain}}, nil
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &proxy{endpoint: endpoint{port: port, plain: t.plain}, exited: make(chan struct{})}
	if p.dir, err = r.makeDir(t.name); err != nil {
		return nil, err
	}
	if p.cmd, err = t.launch(r, p.dir, port); err != nil {
		return nil, err
	}
	if err := p.launch(r); err != nil {
		return nil, err
	}
	if err := p.waitReady(ctx, r); err != nil {
		err = p.explain(err)
		_ = p.stop() // the first error is the one to tell
		return nil, err
	}
	return p, nil
}

// launch starts the process: with this one's terminal signals kept from it, and killed by the kernel if this one is.
func (p *proxy) launch(r *rig) error {
	log, err := os.Create(p.logFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = p.dir, log, log
	// The kernel takes the end of the thread that started a process for the death of its parent (prctl(2),
	// PR_SET_PDEATHSIG). Go ends a thread only with a goroutine that is locked to it, and there is none here.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: r.account}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go p.wait()
	return nil
}

func (p *proxy) wait() {
	_ = p.cmd.Wait() // its state says the same
	close(p.exited)
}

// waitReady waits until a client can log in.
func (p *proxy) waitReady(ctx context.Context, r *rig) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := r.connect(ctx, p.endpoint)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.exited:
			return fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("no login: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pid is the process id, 0 for a direct connection.
func (p *proxy) pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// stop ends the process, with its sessions, and returns when it is gone.
func (p *proxy) stop() error {
	if p.cmd == nil {
		return nil
	}
	select {
	case <-p.exited:
		return p.explain(fmt.Errorf("it had ended: %s", p.cmd.ProcessState))
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case <-p.exited:
	case <-time.After(patience):
		err = p.explain(errors.New("it ignored SIGTERM"))
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *proxy) logFile() string { return filepath.Join(p.dir, "log") }

// explain adds to an error what the process printed last.
func (p *proxy) explain(err error) error {
	if p.cmd == nil {
		return err
	}
	log, _ := os.ReadFile(p.logFile()) // without one there is nothing to add
	return fmt.Errorf("%w; its log ends:\n%s", err, lastLines(log))
}

// lastLines returns the end of what a program printed.
func lastLines(out []byte) string {
	const most = 10
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-most):], []byte("\n")))
}

// freePort returns a port of loopback that is free at the moment.
func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port, nil
}
