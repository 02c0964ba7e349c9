package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/spf13/cobra"
)

// newFmtCommand returns the command that brings configuration files into the canonical layout.
func newFmtCommand(configPath *string) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt [file]...",
		Short: "Lay out the configuration in the canonical way",
		Long: `Rewrite configuration files with canonical indentation and alignment, the one of --config if none is named.
Only white space changes. The names of files that changed are printed; "-" formats stdin to stdout.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{*configPath}
			}
			f := formatter{in: cmd.InOrStdin(), out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(), check: check}
			return f.run(args)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; name the files that need it and exit with 1")
	return cmd
}

// formatter is one run of fmt.
type formatter struct {
	in          io.Reader
	out, errOut io.Writer
	check       bool
}

// run goes through all files, whatever becomes of one.
func (f *formatter) run(paths []string) error {
	var errs []error
	changed := 0
	for _, path := range paths {
		did, err := f.format(path)
		if did {
			changed++
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if f.check && changed > 0 {
		return fmt.Errorf("not in canonical layout: %s", count(changed, "file"))
	}
	return nil
}

// format reports whether the file was not in canonical layout.
func (f *formatter) format(path string) (bool, error) {
	src, err := f.read(path)
	if err != nil {
		return false, err
	}
	name := path
	if path == "-" {
		name = "stdin"
	}
	_, diags := parseHCL(name, src) // hclwrite.Format would make a mess of what is not HCL
	if err := reportDiagnostics(f.errOut, name, diags); err != nil {
		return false, err
	}
	formatted := hclwrite.Format(src)
	changed := !bytes.Equal(src, formatted)
	switch {
	case path == "-" && !f.check:
		_, err = f.out.Write(formatted)
		return changed, err
	case !changed:
		return false, nil
	case !f.check:
		if err := replaceFile(path, formatted); err != nil {
			return true, err
		}
	}
	_, err = fmt.Fprintln(f.out, name)
	return true, err
}

func (f *formatter) read(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(f.in)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{err}
	}
	return src, nil
}

// replaceFile exchanges what a file holds in one step: a reader sees the old or the new, never half. Mode and owner
// stay, and a symbolic link goes on pointing at the file.
func replaceFile(path string, content []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once renamed
	err = fill(tmp, content, info)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// fill makes f what replaces the file that info describes. The owner comes first: changing it may clear mode bits.
func fill(f *os.File, content []byte, info os.FileInfo) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return fmt.Errorf("keep the owner of %s: %w", info.Name(), err)
		}
	}
	if err := f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.Sync()
}
