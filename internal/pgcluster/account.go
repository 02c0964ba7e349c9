package pgcluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
)

// account is the operating system user that the servers run as. The zero value stands for the user of this process.
// PostgreSQL refuses to run as root, so for root it is always another one.
type account struct {
	name     string
	uid, gid int
}

// serverAccount returns the account for Config.User.
func serverAccount(name string) (account, error) {
	if os.Geteuid() != 0 {
		if name != "" {
			return account{}, fmt.Errorf("run servers as user %q: only root can do that", name)
		}
		return account{}, nil
	}
	names := []string{"postgres", "nobody"}
	if name != "" {
		names = []string{name}
	}
	var errs []error
	for _, name := range names {
		found, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return newAccount(found)
	}
	return account{}, fmt.Errorf("find a user to run servers as: %w", errors.Join(errs...))
}

// newAccount returns the account of a user in the password database.
func newAccount(u *user.User) (account, error) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("user %q: uid: %w", u.Username, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("user %q: gid: %w", u.Username, err)
	}
	if uid == 0 {
		return account{}, errors.New("PostgreSQL does not run as root; name another user")
	}
	return account{name: u.Username, uid: uid, gid: gid}, nil
}

// own gives the account a file or directory that this process made.
func (a account) own(path string) error {
	if a == (account{}) {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// mkdir makes a directory that only the account may enter.
func (a account) mkdir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return a.own(path)
}

// writeFile writes a file that only the account may read.
func (a account) writeFile(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	return a.own(path)
}

// copyFile copies a file to one that only the account may read.
func (a account) copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return a.own(to)
}
