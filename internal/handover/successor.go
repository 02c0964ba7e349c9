package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readyWord is what a successor writes to its predecessor.
const readyWord = "ready\n"

// Program is a command line as it was when this process started: a file that a package replaced since is run in its new
// version, and the environment is complete.
type Program struct {
	path string
	args []string
	env  []string
}

// ThisProgram returns the command line of this process. It is called before the environment is changed.
func ThisProgram() (Program, error) {
	path, err := os.Executable()
	if err != nil {
		return Program{}, err
	}
	return Program{path: path, args: os.Args, env: os.Environ()}, nil
}

// Successor says what the program that is to replace this one is given.
type Successor struct {
	// Listeners stay this process's own, too; see Release.
	Listeners map[Address]net.Listener
	// Note is for the successor to read in Predecessor.Note.
	Note string
}

// Start runs p as the successor and waits until it says that it is ready. An error means that there is none: it could not be
// started, it ended before, or ctx did, and then it was killed. The process that was started is waited for in the
// background.
func (s Successor) Start(ctx context.Context, p Program) (pid int, err error) {
	report, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer report.Close()
	cmd, err := s.command(p, write)
	if err == nil {
		err = cmd.Start()
	}
	for _, f := range cmd.ExtraFiles {
		_ = f.Close()
	}
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", p.path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	word := make([]byte, len(readyWord))
	if _, err := io.ReadFull(report, word); err != nil || string(word) != readyWord {
		_ = cmd.Process.Kill()
		err = <-ended
		if ctx.Err() != nil {
			return 0, fmt.Errorf("process %d was not ready in time", cmd.Process.Pid)
		}
		return 0, fmt.Errorf("process %d ended before it was ready: %w", cmd.Process.Pid, err)
	}
	return cmd.Process.Pid, nil
}

// command prepares the process. Its extra files are the caller's to close, even with an error.
func (s Successor) command(p Program, report *os.File) (*exec.Cmd, error) {
	cmd := &exec.Cmd{Path: p.path, Args: p.args, Stdout: os.Stdout, Stderr: os.Stderr}
	cmd.ExtraFiles = []*os.File{report}
	from := legacy{Note: s.Note}
	for address, ln := range s.Listeners {
		f, err := duplicate(ln)
		if err != nil {
			return cmd, fmt.Errorf("listener %s: %w", address.Address, err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		from.Listeners = append(from.Listeners, address)
	}
	text, err := json.Marshal(from)
	// What systemd told this process is not for another one.
	cmd.Env = slices.DeleteFunc(slices.Clone(p.env), func(v string) bool {
		return strings.HasPrefix(v, successorVariable+"=") || strings.HasPrefix(v, "LISTEN_") || strings.HasPrefix(v, "WATCHDOG_PID=")
	})
	cmd.Env = append(cmd.Env, successorVariable+"="+string(text))
	return cmd, err
}

// duplicate returns another descriptor of a listener. Unlike the File methods of package net it does not make the socket
// blocking once its descriptor is asked for, which would be so for this process too: Accept would not end any more.
func duplicate(ln net.Listener) (*os.File, error) {
	conn, ok := ln.(syscall.Conn)
	if !ok {
		return nil, errors.New("has no descriptor")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(own uintptr) { fd, dupErr = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || dupErr != nil {
		return nil, errors.Join(err, dupErr)
	}
	return os.NewFile(uintptr(fd), ln.Addr().String()), nil
}

// Release prepares listeners that a successor has for being closed here: socket files stay.
func (s Successor) Release() {
	for _, ln := range s.Listeners {
		if socket, ok := ln.(*net.UnixListener); ok {
			socket.SetUnlinkOnClose(false)
		}
	}
}
