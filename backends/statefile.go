package backends

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// stateVersion is the format of the state file.
const stateVersion = 1

// stateFile is what the file holds.
type stateFile struct {
	Version int `json:"version"`
	memory
}

// CheckStateFile makes the directory of a state file and reads the file if there is one. The error says what to do: a
// monitor that forgot which primary was the last could believe a stale one. A disk that takes nothing is no error here: a restart
// must not add to that trouble. The monitor tells of it, and tries again.
func CheckStateFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); diskTakesNothing(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("directory for the roles of servers: %w (make it writable, or set state_dir)", err)
	}
	if _, err := loadMemory(path); err != nil {
		return err
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), temporaryName(path)))
	for _, name := range left { // by a program that was killed; a younger one may be under way
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > time.Minute {
			_ = os.Remove(name)
		}
	}
	probe, err := os.CreateTemp(filepath.Dir(path), temporaryName(path))
	if diskTakesNothing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("directory for the roles of servers: %w (make it writable, or set state_dir)", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// diskTakesNothing reports an error of a disk that is full or read-only, which is nobody's mistake in the configuration.
func diskTakesNothing(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// temporaryName is the pattern for what becomes the file.
func temporaryName(path string) string { return "." + filepath.Base(path) + "-*" }

// loadMemory reads a state file. Without one there is nothing to remember.
func loadMemory(path string) (memory, error) {
	if path == "" {
		return memory{}, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return memory{}, nil
	}
	if err != nil {
		return memory{}, fmt.Errorf("roles of servers: %w (mend it, or remove the file if what it remembers need not be known)", err)
	}
	var file stateFile
	err = json.Unmarshal(content, &file)
	switch {
	case err != nil:
	case file.Version != stateVersion:
		err = fmt.Errorf("format %d, and this program knows %d", file.Version, stateVersion)
	case (file.Primary == "") != (file.Epoch == 0) || file.Primary != "" && file.SystemIdentifier == "":
		err = errors.New("it is not complete")
	}
	if err != nil {
		return memory{}, fmt.Errorf("roles of servers: %s cannot be used: %w (if every server is well and the right one is primary, remove the file)", path, err)
	}
	return file.memory, nil
}

// saveMemory writes a state file so that a crash at any moment leaves the old one or the new one.
func saveMemory(path string, m memory) (err error) {
	content, err := json.MarshalIndent(stateFile{Version: stateVersion, memory: m}, "", "  ")
	if err != nil {
		return fmt.Errorf("roles of servers: %w", err)
	}
	dir := filepath.Dir(path)
	temporary, err := os.CreateTemp(dir, temporaryName(path)) // with mode 0600
	if err != nil {
		return fmt.Errorf("roles of servers: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary.Name())
		}
	}()
	_, err = temporary.Write(append(content, '\n'))
	if err := errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return fmt.Errorf("roles of servers: %w", err)
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return fmt.Errorf("roles of servers: %w", err)
	}
	return syncDir(dir)
}

// syncDir makes a rename in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("roles of servers: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("roles of servers: %w", err)
	}
	return nil
}
