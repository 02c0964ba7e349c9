//go:build unix

package tlsfront

import (
	"io/fs"
	"syscall"
)

// exposed reports whether a key file is open to more users than PostgreSQL would accept for its own (manual, "Secure
// TCP/IP Connections with SSL"): nobody but the owner, and the group for reading when the owner is root.
func exposed(info fs.FileInfo) bool {
	allowed := fs.FileMode(0o700)
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid == 0 {
		allowed |= 0o040
	}
	return info.Mode().Perm()&^allowed != 0
}
