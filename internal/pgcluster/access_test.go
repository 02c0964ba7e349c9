package pgcluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// selfSigned returns a certificate for a server, named so that it can be recognised.
func selfSigned(t *testing.T, server string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{server},
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM, keyPEM
}

// dialTCP connects as a client would, to the given address of the server.
func dialTCP(ctx context.Context, s *Server, host, user, password, sslmode string) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=postgres sslmode=%s",
		host, s.Port, user, password, sslmode))
}

func TestTLSAndHBA(t *testing.T) {
	eachVersion(t, func(t *testing.T, found Installation) {
		ctx := testContext(t)
		c := start(ctx, t, Config{
			Installation: found,
			Standbys:     1,
			TLS: func(server string) ([]byte, []byte) {
				return selfSigned(t, server)
			},
			HBA: []string{"hostnossl all all all reject", "local all all reject"},
		})
		for _, s := range c.Servers() {
			conn, err := dialTCP(ctx, s, s.Host, SuperuserName, c.SuperuserPassword, "require")
			must(t, err)
			leaf := conn.Conn().(*tls.Conn).ConnectionState().PeerCertificates[0]
			if got, want := leaf.DNSNames[0], s.Name; got != want {
				t.Errorf("%s shows the certificate of %s", want, got)
			}
			must(t, conn.Close(ctx))

			_, err = dialTCP(ctx, s, s.Host, SuperuserName, c.SuperuserPassword, "disable")
			var refused *pgconn.PgError
			if !errors.As(err, &refused) || refused.Code != "28000" {
				t.Errorf("plaintext to %s: got %v, want SQLSTATE 28000", s.Name, err)
			}
		}
	})
}

func TestPasswords(t *testing.T) {
	ctx := testContext(t)
	c := start(ctx, t, Config{Installation: installations(t)[0]})
	db1 := c.Server("db1")
	for _, host := range listenAddresses() {
		for role, password := range map[string]string{
			SuperuserName: c.SuperuserPassword, ReplicationName: c.ReplicationPassword,
		} {
			conn, err := dialTCP(ctx, db1, host, role, password, "disable")
			if err != nil {
				t.Errorf("%s at %s: %v", role, host, err)
				continue
			}
			must(t, conn.Close(ctx))
		}
		_, err := dialTCP(ctx, db1, host, SuperuserName, "wrong", "disable")
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "28P01" {
			t.Errorf("wrong password at %s: got %v, want SQLSTATE 28P01", host, err)
		}
	}
}

// TestConnIgnoresEnvironment: the demo runs where its user has set up psql.
func TestConnIgnoresEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"PGHOST": "elsewhere", "PGPORT": "1", "PGUSER": "nobody", "PGPASSWORD": "wrong", "PGDATABASE": "none",
		"PGSSLMODE": "verify-full", "PGSSLCERTMODE": "require", "PGOPTIONS": "-c search_path=none", "PGAPPNAME": "other",
		"PGTARGETSESSIONATTRS": "standby", "PGCONNECT_TIMEOUT": "1", "PGREQUIREAUTH": "gss",
		"PGCHANNELBINDING": "require", "PGMINPROTOCOLVERSION": "3.2", "PGDATA": "/nowhere",
	} {
		t.Setenv(name, value)
	}
	ctx := testContext(t)
	c := start(ctx, t, Config{Installation: installations(t)[0], Standbys: 1})
	if got, want := ask(ctx, t, c.Server("db2"), "SHOW search_path"), `"$user", public`; got != want {
		t.Errorf("got search_path %s, want %s", got, want)
	}
}

func TestQueryString(t *testing.T) {
	ctx := testContext(t)
	db1 := start(ctx, t, Config{Installation: installations(t)[0]}).Server("db1")
	if got := ask(ctx, t, db1, "SELECT NULL"); got != "" {
		t.Errorf("got %q for NULL", got)
	}
	if _, err := db1.QueryString(ctx, "postgres", "SELECT 1 WHERE false"); err == nil {
		t.Error("no error without a row")
	}
	var failed *pgconn.PgError
	if err := db1.Exec(ctx, "postgres", "SELECT 1/0"); !errors.As(err, &failed) || failed.Code != "22012" {
		t.Errorf("got %v, want SQLSTATE 22012", err)
	}
	if err := db1.Exec(ctx, "none", "SELECT 1"); !errors.As(err, &failed) || failed.Code != "3D000" {
		t.Errorf("got %v, want SQLSTATE 3D000", err)
	}
}

func TestReload(t *testing.T) {
	ctx := testContext(t)
	db1 := start(ctx, t, Config{Installation: installations(t)[0]}).Server("db1")
	must(t, db1.Exec(ctx, "postgres", "ALTER SYSTEM SET work_mem = '7MB'"))
	must(t, db1.Reload())
	must(t, db1.await(ctx, "it has reloaded", "SELECT current_setting('work_mem') = '7MB'"))
	must(t, db1.Stop(ctx, Fast))
	if err := db1.Reload(); err == nil {
		t.Error("reloaded a server that does not run")
	}
}
