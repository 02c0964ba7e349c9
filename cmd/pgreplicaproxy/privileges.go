package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account is whom the program runs as once its sockets are bound.
type account struct {
	name     string
	uid, gid int
	groups   []int
}

// findAccount looks a user of this machine up.
func findAccount(name string) (account, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("user = %q: %w", name, err)
	}
	a := account{name: name}
	var errs []error
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		errs = append(errs, err)
		return n
	}
	a.uid, a.gid = number(found.Uid), number(found.Gid)
	ids, err := found.GroupIds()
	errs = append(errs, err)
	for _, id := range ids {
		a.groups = append(a.groups, number(id))
	}
	return a, errors.Join(errs...)
}

// surrender gives up what only binding sockets needs: from root the program becomes the user of the configuration, for good.
// It does so once, at the start; a process that is that user already, such as one that an upgrade has started, stays it.
func (s *service) surrender(cfg *config, opened sockets) error {
	if cfg.User == "" || s.current.Load() != nil {
		return nil
	}
	a, err := findAccount(cfg.User)
	if err != nil || a.uid == os.Geteuid() {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("user = %q: only root can become somebody else", cfg.User)
	}
	if err := a.own(cfg.StateDir, opened); err != nil {
		return err
	}
	if err := a.become(); err != nil {
		return fmt.Errorf("become user %q: %w", a.name, err)
	}
	return harden() // a change of the user has undone part of it
}

// own gives the account what was made for it as root: an empty directory of the state, and unix sockets.
func (a account) own(stateDir string, opened sockets) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(stateDir)
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != a.uid {
		entries, err := os.ReadDir(stateDir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type() != os.ModeSocket {
				return fmt.Errorf("state_dir %s does not belong to user %q: chown -R %s %s", stateDir, a.name, a.name, stateDir)
			}
		}
		if err := os.Lchown(stateDir, a.uid, a.gid); err != nil {
			return err
		}
	}
	for _, socket := range opened {
		if unix, ok := socket.Addr().(*net.UnixAddr); ok {
			if err := os.Lchown(unix.Name, a.uid, a.gid); err != nil {
				return err
			}
		}
	}
	return nil
}

// become changes the whole process, every thread of it, and makes sure that there is no way back.
func (a account) become() error {
	if err := errors.Join(syscall.Setgroups(a.groups), syscall.Setgid(a.gid), syscall.Setuid(a.uid)); err != nil {
		return err
	}
	if syscall.Setuid(0) == nil {
		return errors.New("the process could become root again")
	}
	return nil
}
