//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine says what was measured, and on what.
type machine struct {
	CPUs       int     `json:"cpus"`
	Model      string  `json:"cpu_model"`
	MemoryGiB  float64 `json:"memory_gib"`
	System     string  `json:"system"`
	Congestion string  `json:"congestion_control"`
	Program    string  `json:"program"`
	PostgreSQL string  `json:"postgresql"`
	PgBouncer  string  `json:"pgbouncer"`
	HAProxy    string  `json:"haproxy"`
	Pgbench    string  `json:"pgbench"`
}

// describe asks the system and every program.
func (r *rig) describe(ctx context.Context) (machine, error) {
	var errs []error
	firstLine := func(program, argument string) string {
		out, err := exec.CommandContext(ctx, program, argument).Output()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", program, argument, err))
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return line
	}
	memory, err := machineMemory("MemTotal")
	errs = append(errs, err)
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	errs = append(errs, err)
	version, err := r.server.QueryString(ctx, "postgres", "SHOW server_version")
	errs = append(errs, err)
	congestion, err := r.congestionControl()
	errs = append(errs, err)
	m := machine{
		CPUs: runtime.NumCPU(), Model: cpuModel(), MemoryGiB: float64(memory) / (1 << 30),
		System: "Linux " + strings.TrimSpace(string(kernel)), Congestion: congestion,
		Program: firstLine(r.binary, "version"), PostgreSQL: "PostgreSQL " + version,
		PgBouncer: firstLine(r.pgbouncer, "--version"), HAProxy: firstLine(r.haproxy, "-v"),
		Pgbench: firstLine(r.pgbench, "--version"),
	}
	m.HAProxy, _, _ = strings.Cut(m.HAProxy, " 20") // a date and more follow
	if err := errors.Join(errs...); err != nil {
		return m, fmt.Errorf("describe the machine: %w", err)
	}
	return m, nil
}

// congestionControl returns what TCP uses on the way to the server.
func (r *rig) congestionControl() (name string, err error) {
	conn, err := net.Dial("tcp", r.serverAddress())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return "", err
	}
	var optionErr error
	err = raw.Control(func(fd uintptr) {
		name, optionErr = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	return name, errors.Join(err, optionErr)
}

// cpuModel returns the model of the CPU where the kernel tells it, else the architecture.
func cpuModel() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // without it there is no model
	if match := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(info); match != nil {
		return string(match[1])
	}
	return runtime.GOARCH
}
