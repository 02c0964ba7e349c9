//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	state   string // directory
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
	p := &program{address: net.JoinHostPort("127.0.0.1", port), state: filepath.Join(dir, "state"), exited: make(chan struct{})}
	file := filepath.Join(dir, "pgreplicaproxy.hcl")
	config = fmt.Sprintf("state_dir = %q\nlisten { address = %q }\nlog { level = \"info\" }\n", p.state, p.address) + config
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

// explain adds to an error what the program logged last, but for those whom it refused.
func (p *program) explain(err error) error {
	if err == nil {
		return nil
	}
	text, readErr := os.ReadFile(p.log.Name())
	if readErr != nil {
		return err
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return strings.Contains(line, `"msg":"connection refused"`)
	})
	const most = 30
	return fmt.Errorf("%w; the log of the program ends:\n%s", err, strings.Join(lines[max(0, len(lines)-most):], "\n"))
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

// metrics are the lines of the program's metrics that begin so, empty if it does not tell.
func (p *program) metrics(ctx context.Context, prefix string) string {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(p.state, "admin.sock"))
	}}}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		return ""
	}
	response, err := client.Do(request)
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	var found strings.Builder
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), prefix) {
			fmt.Fprintln(&found, lines.Text())
		}
	}
	return found.String()
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
