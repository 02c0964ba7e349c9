//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// makeDir makes a directory for a proxy, which only this process and the account may enter.
func (r *rig) makeDir(name string) (string, error) {
	dir, err := os.MkdirTemp(r.dir, name+"-")
	if err != nil {
		return "", err
	}
	return dir, r.own(dir)
}

// writeFiles writes the files of a proxy, by their names, for this process and the account alone.
func (r *rig) writeFiles(dir string, files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
		if err := r.own(path); err != nil {
			return err
		}
	}
	return nil
}

// own gives the account a file or directory; root can use it all the same.
func (r *rig) own(path string) error {
	if r.account == nil {
		return nil
	}
	return os.Chown(path, int(r.account.Uid), int(r.account.Gid))
}

// certificate makes the one certificate of a run, with a key of the kind that costs least per login.
func certificate() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, errCert := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	keyDER, errKey := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), errors.Join(errCert, errKey)
}

// clearEnvironment takes from this process, and so from those it starts, what steers PostgreSQL's clients: variables, and
// files in the home directory.
func clearEnvironment(home string) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			_ = os.Unsetenv(name) // the name came from there
		}
	}
	_ = os.Setenv("HOME", home)
}

// A piece of COPY is what one COPY command moves; 8 of them are 1 GiB.
const (
	pieceLines = 1 << 17
	lineBytes  = 1 << 10 // with the newline
	pieceBytes = pieceLines * lineBytes
)

// load makes the tables: those of pgbench at scale 10, one to copy from, one to copy into.
func (r *rig) load(ctx context.Context) error {
	direct := endpoint{port: r.server.Port}
	if _, err := r.client(ctx, r.pgbench, "-i", "-q", "-s", "10", direct.conninfo()); err != nil {
		return err
	}
	if err := writePiece(r.pieceFile()); err != nil {
		return err
	}
	if _, err := r.client(ctx, r.psql, append(psqlArgs(direct),
		"-c", "CREATE UNLOGGED TABLE lines (line text)", "-c", "CREATE UNLOGGED TABLE sink (line text)",
		"-c", `\copy lines from '`+r.pieceFile()+`'`)...); err != nil {
		return err
	}
	for _, table := range []string{"lines", "pgbench_accounts"} { // what else the first to read would do
		if err := r.server.Exec(ctx, database, "VACUUM (ANALYZE) "+table); err != nil {
			return err
		}
	}
	return nil
}

func (r *rig) pieceFile() string { return filepath.Join(r.dir, "lines.txt") }

// writePiece writes the lines to copy, no two alike.
func writePiece(path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := bufio.NewWriter(file)
	filler := strings.Repeat("0123456789abcdef", lineBytes/16)
	for i := range pieceLines {
		number := fmt.Sprintf("%08d ", i)
		_, _ = out.WriteString(number + filler[:lineBytes-1-len(number)] + "\n") // Flush reports errors
	}
	return out.Flush()
}
