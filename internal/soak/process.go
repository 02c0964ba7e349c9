//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience bounds every wait for something that is to happen soon. It is no expectation of speed.
const patience = 60 * time.Second

// program is the built program at work.
type program struct {
	cmd     *exec.Cmd
	address string
	log     *os.File
	exited  chan struct{}
	err     error
}

// startProgram starts the program with a configuration and returns when it listens.
func startProgram(ctx context.Context, binary, dir, config string) (*program, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &program{address: net.JoinHostPort("127.0.0.1", port), exited: make(chan struct{})}
	file := filepath.Join(dir, "pgreplicaproxy.hcl")
	config = fmt.Sprintf("state_dir = %q\nlisten { address = %q }\nlog { level = \"info\" }\n", filepath.Join(dir, "state"), p.address) + config
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	if p.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(binary, "serve", "--config", file)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, p.explain(p.wait(ctx, func() bool {
		conn, err := net.Dial("tcp", p.address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}))
}

// wait waits for a condition while the program runs.
func (p *program) wait(ctx context.Context, condition func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !condition() {
		select {
		case <-p.exited:
			return fmt.Errorf("the program ended: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// explain adds to an error what the program logged last.
func (p *program) explain(err error) error {
	if err == nil {
		return nil
	}
	const most = 4 << 10
	if info, statErr := p.log.Stat(); statErr == nil {
		tail := make([]byte, min(info.Size(), most))
		_, _ = p.log.ReadAt(tail, info.Size()-int64(len(tail)))
		return fmt.Errorf("%w; the log of the program ends:\n%s", err, tail)
	}
	return err
}

// stop ends the program as an operator would. It must end well.
func (p *program) stop() error {
	defer func() { _ = p.log.Close() }()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return p.explain(errors.New("the program ignored SIGTERM"))
	}
	if p.err != nil {
		return p.explain(fmt.Errorf("the program ended with %w", p.err))
	}
	return nil
}

// memory is the resident memory of the program in bytes.
func (p *program) memory() (int64, error) {
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = status.Close() }()
	for lines := bufio.NewScanner(status); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, io.ErrUnexpectedEOF
}

// descriptors is how many the program has open.
func (p *program) descriptors() (int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(list), err
}

// freePort returns a port of loopback that is free at the moment.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = ln.Close() }()
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), nil
}
