package tlsfront

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// openRoot loads the root from a file, and makes one first when there is no such file.
func openRoot(file, host string, now time.Time) (*tls.Certificate, error) {
	root, err := loadRoot(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if err := foundRoot(file, host, now); err != nil {
		return nil, fmt.Errorf("create %s: %w", file, err)
	}
	return loadRoot(file)
}

// loadRoot reads what foundRoot has written, and checks that nobody else could and that it fits together.
func loadRoot(file string) (*tls.Certificate, error) {
	data, info, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if exposed(info) {
		return nil, fmt.Errorf("%s holds a private key and can be read by other users (mode %#o): "+
			"chmod 0600 %[1]s, or remove it if one may have taken a copy", file, info.Mode().Perm())
	}
	root, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := root.Leaf.CheckSignatureFrom(root.Leaf); err != nil {
		return nil, fmt.Errorf("%s: not a self-signed certificate authority: %w", file, err)
	}
	return &root, nil
}

// foundRoot writes a new root, certificate and key in one file so that they can never come apart. The file appears
// complete and on disk, or not at all; if another process was faster, its file stands and ours is forgotten.
func foundRoot(file, host string, now time.Time) error {
	root, err := newRoot(host, now)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(root.PrivateKey)
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temporary, err := writeTemporary(dir, append(encodePEM("CERTIFICATE", root.Certificate[0]), encodePEM("PRIVATE KEY", key)...))
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	// Unlike a rename, a link does not replace what is there.
	if err := os.Link(temporary, file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// writeTemporary writes data to disk under a new name in dir, mode 0600.
func writeTemporary(dir string, data []byte) (name string, err error) {
	f, err := os.CreateTemp(dir, ".root-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// syncDir puts the names in dir on disk.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func encodePEM(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}
