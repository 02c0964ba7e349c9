package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a postmaster that this process started. It is reaped as soon as it exits.
type process struct {
	handle *os.Process
	exited chan struct{} // closed once it is reaped
	status string        // how it ended; valid after exited
}

// startProcess starts cmd, whose output must go to files and not to writers: a pipe would hide the exit of the
// postmaster for as long as one of its children keeps it open.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{exited: make(chan struct{})}
	started := make(chan error, 1)
	go p.supervise(cmd, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// supervise starts cmd and waits for its end. It keeps one operating system thread for all that time, because the
// kernel takes the end of the thread that started a process for the death of its parent (prctl(2), PR_SET_PDEATHSIG).
// The wait would occupy a thread anyway.
func (p *process) supervise(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.handle = cmd.Process
	started <- nil
	_ = cmd.Wait() // the status says more
	p.status = cmd.ProcessState.String()
	close(p.exited)
}

// alive tells whether the process has not exited.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends a signal; a process that has exited is no error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.handle.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to process %d: %w", sig, p.handle.Pid, err)
	}
	return nil
}

// Kill ends the postmaster with SIGKILL and returns when it is gone. Its children notice that and leave soon, each as
// soon as it is not busy. Like a crash it leaves remains behind; Start clears them away. A server that is not running
// is no error.
func (s *Server) Kill() error {
	p := s.current()
	if p == nil {
		return nil
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", s.Name, err)
	}
	<-p.exited
	return nil
}

// KillAll ends the postmaster and all its children with SIGKILL, also frozen ones and those whose postmaster was
// killed, and returns when they are gone: the closest thing to a machine that loses power.
func (s *Server) KillAll() error {
	p := s.current()
	if p != nil {
		// A postmaster at a halt cannot start another child while we look for them.
		if err := p.signal(sigStop); err != nil {
			return fmt.Errorf("kill %s: %w", s.Name, err)
		}
	}
	err := s.each("end", func(pid int) bool { return p != nil && pid == p.handle.Pid }, syscall.SIGKILL)
	return errors.Join(err, s.Kill())
}

// Freeze stops (SIGSTOP) the postmaster and all its children and returns when none of them runs any more. The kernel
// still accepts connections and data for them, nobody answers: the server looks like one whose machine hangs.
func (s *Server) Freeze() error {
	if err := s.FreezePostmaster(); err != nil {
		return err
	}
	return s.each("freeze", isHalted, sigStop)
}

// Thaw lets everything that Freeze or FreezePostmaster stopped run again.
func (s *Server) Thaw() error {
	for _, pid := range s.processes() {
		if err := signalProcess(pid, sigCont); err != nil {
			return fmt.Errorf("thaw %s: %w", s.Name, err)
		}
	}
	return nil
}

// FreezePostmaster stops (SIGSTOP) the postmaster alone and returns when it no longer runs: sessions go on, new
// connections get no answer.
func (s *Server) FreezePostmaster() error {
	p, err := s.running()
	if err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	if err := p.signal(sigStop); err != nil {
		return fmt.Errorf("freeze %s: %w", s.Name, err)
	}
	return s.until("freeze", func() bool { return isHalted(p.handle.Pid) })
}

// ThawPostmaster lets the postmaster run again.
func (s *Server) ThawPostmaster() error {
	p, err := s.running()
	if err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	return p.signal(sigCont)
}

// each signals every process of the server for which done is not true, and again until there is none left.
func (s *Server) each(verb string, done func(pid int) bool, sig syscall.Signal) error {
	var failed error
	err := s.until(verb, func() bool {
		left := false
		for _, pid := range s.processes() {
			if done(pid) {
				continue
			}
			left = true
			failed = errors.Join(failed, signalProcess(pid, sig))
		}
		return !left || failed != nil
	})
	return errors.Join(failed, err)
}

// processes returns the ids of all live processes of the server.
func (s *Server) processes() []int {
	return processesOf(s.cluster.config.Installation.program("postgres"), s.DataDir)
}

// signalPatience bounds how long the kernel may take to deliver a signal. Only a process that is stuck in the kernel,
// as on a broken disk, needs longer.
const signalPatience = 30 * time.Second

// until waits for something that the kernel is about to do.
func (s *Server) until(verb string, done func() bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), signalPatience)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return done(), nil }); err != nil {
		return fmt.Errorf("%s %s: %w", verb, s.Name, err)
	}
	return nil
}

// poll calls done, first often and then every 50 ms, until it is true or fails or the context ends. The error is that
// of done, or else the context's.
func poll(ctx context.Context, done func() (bool, error)) error {
	const longest = 50 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
