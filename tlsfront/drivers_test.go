package tlsfront

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lib/pq"
	"github.com/replicon/pgreplicaproxy/wire"
)

// A driver tries to log in and tells what it was refused with: SQLSTATE, and hint.
type driver func(ctx context.Context, dsn string) (code, hint string, err error)

func byPgconn(ctx context.Context, dsn string) (code, hint string, err error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err == nil {
		_ = conn.Close(ctx)
		return "", "", nil
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code, refused.Hint, nil
	}
	return "", "", err
}

func byPq(ctx context.Context, dsn string) (code, hint string, err error) {
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return "", "", err
	}
	conn, err := connector.Connect(ctx)
	if err == nil {
		_ = conn.Close()
		return "", "", nil
	}
	var refused *pq.Error
	if errors.As(err, &refused) {
		return string(refused.Code), refused.Hint, nil
	}
	return "", "", err
}

var drivers = map[string]driver{"pgconn": byPgconn, "lib/pq": byPq}

// ask lets a driver connect to the front with nothing of this machine's settings.
func ask(t *testing.T, d driver, f *front, settings string) (code, hint string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("PGPASSFILE", home+"/none")
	t.Setenv("PGSERVICEFILE", home+"/none")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	addr := f.ln.Addr().(*net.TCPAddr)
	code, hint, err := d(ctx, fmt.Sprintf("host=%s port=%d user=bob dbname=app_replica %s", addr.IP, addr.Port, settings))
	if err != nil {
		t.Errorf("%s: %v, want an answer with a SQLSTATE", settings, err)
	}
	return code, hint
}

func TestDriversReachTheHandler(t *testing.T) {
	for _, test := range []struct{ driver, settings string }{
		{"pgconn", "sslmode=require"},
		{"pgconn", "sslmode=require sslnegotiation=direct"},
		{"lib/pq", "sslmode=require"}, // its direct TLS sends no ALPN up to v1.12.3, and PostgreSQL refuses it too (lib/pq#1331)
	} {
		t.Run(test.driver+" "+test.settings, func(t *testing.T) {
			f := startFront(t, loopback(t), Config{}, nil)
			if code, _ := ask(t, drivers[test.driver], f, test.settings); code != "57P03" {
				t.Errorf("driver reports SQLSTATE %q, want the handler's 57P03", code)
			}
			clients := f.stop(t)
			if len(clients) != 1 {
				t.Fatalf("%d clients, want 1", len(clients))
			}
			c := clients[0]
			if c.TLS == nil || c.Opening.Kind != wire.KindStartup {
				t.Fatalf("TLS %t, opening %v", c.TLS != nil, c.Opening.Kind)
			}
			if s := c.Opening.Startup; s.User() != "bob" || s.Database() != "app_replica" {
				t.Errorf("user %q, database %q", s.User(), s.Database())
			}
		})
	}
}

// With its certificate at hand a driver verifies the front in full.
func TestDriversVerifyTheFront(t *testing.T) {
	certPEM, keyPEM := pemPair(t, "ecdsa", names("127.0.0.1"))
	pair := writePair(t, t.TempDir(), "db", certPEM, keyPEM)
	files, err := LoadCertificateFiles([]CertificateFile{pair})
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range drivers {
		f := startFront(t, loopback(t), Config{TLS: ServerConfig(files.GetCertificate, tls.VersionTLS13)}, nil)
		if code, _ := ask(t, d, f, "sslmode=verify-full sslrootcert="+pair.CertFile); code != "57P03" {
			t.Errorf("%s: SQLSTATE %q, want the handler's 57P03", name, code)
		}
		f.stop(t)
	}
}

func TestDriversWithoutTLS(t *testing.T) {
	for name, d := range drivers {
		f := startFront(t, loopback(t), Config{}, nil)
		if code, hint := ask(t, d, f, "sslmode=disable"); code != "28000" || hint != errTLSRequired.Hint {
			t.Errorf("%s: SQLSTATE %q, hint %q, want 28000 with the hint", name, code, hint)
		}
		f.wantNoClient(t)
	}
}

// With sslmode=prefer a client may try again in clear when it was refused over TLS: that must lead nowhere.
func TestPlaintextRetryLeadsNowhere(t *testing.T) {
	for _, code := range []string{wire.InvalidAuthorizationSpecification, wire.CannotConnectNow} {
		f := startFront(t, loopback(t), Config{}, func(_ context.Context, c *Client) {
			defer c.Conn.Close()
			b, _ := (&wire.ErrorResponse{Code: code, Message: "refused"}).AppendBinary(nil)
			_, _ = c.Conn.Write(b)
		})
		if got, _ := ask(t, byPgconn, f, "sslmode=prefer"); got != code {
			t.Errorf("driver reports %q first, want %q", got, code)
		}
		p := f.dial(t) // as libpq does it
		p.send(startup(3, 0, parameters))
		if r := p.refusal(); r.Code != "28000" {
			t.Errorf("answered %s %q, want 28000", r.Code, r.Message)
		}
		for _, c := range f.stop(t) {
			if c.TLS == nil {
				t.Error("handed over in clear")
			}
		}
	}
}
