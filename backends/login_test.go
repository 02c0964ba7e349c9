package backends

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

var testCredentials = Credentials{User: "monitor", Password: "s3cr3t", Database: "postgres"}

// receiveStartup reads the startup packet of a login.
func receiveStartup(b *pgproto3.Backend) map[string]string {
	message, err := b.ReceiveStartupMessage()
	if startup, ok := message.(*pgproto3.StartupMessage); ok && err == nil {
		return startup.Parameters
	}
	return nil
}

// say sends messages.
func say(b *pgproto3.Backend, messages ...pgproto3.BackendMessage) {
	for _, m := range messages {
		b.Send(m)
	}
	_ = b.Flush()
}

// fatal is an error of a server that ends the login.
func fatal(code, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: message}
}

// Nothing of the process's environment or of the user's files gets into a login.
func TestLoginIgnoresTheEnvironment(t *testing.T) {
	noLeaks(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:from-pgpass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"PGHOST": "192.0.2.1", "PGPORT": "1", "PGDATABASE": "env", "PGUSER": "env", "PGPASSWORD": "from-env",
		"PGPASSFILE": filepath.Join(home, ".pgpass"), "PGAPPNAME": "env", "PGCONNECT_TIMEOUT": "-1", "PGSSLMODE": "verify-full",
		"PGSSLKEY": "/nonexistent", "PGSSLCERT": "/nonexistent", "PGSSLCERTMODE": "nonsense", "PGSSLSNI": "nonsense",
		"PGSSLROOTCERT": "/nonexistent", "PGSSLPASSWORD": "env", "PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "standby",
		"PGSERVICEFILE": "/nonexistent", "PGTZ": "env", "PGOPTIONS": "-c env=1", "PGMINPROTOCOLVERSION": "3.2",
		"PGMAXPROTOCOLVERSION": "nonsense", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "gss",
	} {
		t.Setenv(name, value)
	}
	startups, passwords := make(chan map[string]string, 2), make(chan string, 2)
	path := filepath.Join(t.TempDir(), ".s.PGSQL.5432")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	accept(t, ln, func(conn net.Conn) {
		b := pgproto3.NewBackend(conn, conn)
		startups <- receiveStartup(b)
		say(b, &pgproto3.AuthenticationCleartextPassword{})
		_ = b.SetAuthType(pgproto3.AuthTypeCleartextPassword)
		if m, err := b.Receive(); err == nil {
			passwords <- m.(*pgproto3.PasswordMessage).Password
		}
		say(b, fatal("28P01", "no"))
	})
	for _, password := range []string{"s3cr3t", ""} {
		credentials := testCredentials
		credentials.Password = password
		_, err := logIn(within(t), Target{Name: "db1", Network: "unix", Address: path}, credentials, 1500*time.Millisecond)
		if f := diagnose(err); f.detail != "refuses the monitor's login (28P01)" {
			t.Fatal(err)
		}
		want := map[string]string{
			"user": "monitor", "database": "postgres", "application_name": "pgreplicaproxy", "statement_timeout": "1500",
			"search_path": "pg_catalog",
		}
		if got := <-startups; !maps.Equal(got, want) {
			t.Errorf("startup packet has %v, want %v", got, want)
		}
		if got := <-passwords; got != password {
			t.Errorf("password is %q, want %q", got, password)
		}
	}
}

// pgconn reads a service file when it is told to, and cannot be told otherwise. That must not end in another login.
func TestLoginWithServiceInTheEnvironment(t *testing.T) {
	t.Setenv("PGSERVICE", "somewhere")
	t.Setenv("PGSERVICEFILE", filepath.Join(t.TempDir(), "nonexistent"))
	_, err := loginConfig(Target{}, testCredentials, time.Second)
	if !errors.Is(err, errEnvironment) || diagnose(err).status != Blind {
		t.Errorf("error is %v", err)
	}
}

// A server, or somebody in its place, that asks for a password in a form that gives it away does not get it, unless
// nobody can be in its place.
func TestLoginGivesNoPasswordAway(t *testing.T) {
	noLeaks(t)
	authority := newAuthority(t)
	leaf := authority.issue(t, "127.0.0.1")
	md5 := &pgproto3.AuthenticationMD5Password{Salt: [4]byte{1, 2, 3, 4}}
	clear := &pgproto3.AuthenticationCleartextPassword{}
	for _, c := range []struct {
		mode   TLSMode
		asks   pgproto3.BackendMessage
		answer bool
	}{
		{TLSOff, clear, false},
		{TLSOff, md5, false},
		{TLSRequire, clear, false},
		{TLSRequire, md5, false},
		{TLSVerifyCA, clear, false},
		{TLSVerifyCA, md5, false},
		{TLSVerifyFull, clear, true},
		{TLSVerifyFull, md5, true},
	} {
		answers := make(chan []byte, 1)
		target := target(serve(t, func(conn net.Conn) {
			if c.mode != TLSOff {
				_ = readN(conn, 8)
				_, _ = conn.Write([]byte{'S'})
				secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{leaf}})
				defer secure.Close()
				conn = secure
			}
			b := pgproto3.NewBackend(conn, conn)
			_ = receiveStartup(b)
			say(b, c.asks)
			answers <- readN(conn, 5)
		}), c.mode)
		target.RootCAs = authority.pool()
		_, err := logIn(within(t), target, testCredentials, time.Second)
		// What is read may also be the TLS alert of the end, which is why its kind is looked at.
		if got := bytes.HasPrefix(<-answers, []byte{'p'}); got != c.answer {
			t.Errorf("%s, asked with %T: answered %t, want %t", c.mode, c.asks, got, c.answer)
		}
		if f := diagnose(err); !c.answer && f.status != Misconfigured || strings.Contains(err.Error(), testCredentials.Password) {
			t.Errorf("%s, asked with %T: %s, %v", c.mode, c.asks, f.status, err)
		}
	}
}

// On a TLS connection that we made ourselves pgconn binds SCRAM to the server's certificate.
func TestLoginBindsTheChannel(t *testing.T) {
	noLeaks(t)
	authority := newAuthority(t)
	leaf := authority.issue(t, "127.0.0.1")
	mechanisms := []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"}
	responses := make(chan *pgproto3.SASLInitialResponse, 1)
	target := target(serve(t, func(conn net.Conn) {
		_ = readN(conn, 8)
		_, _ = conn.Write([]byte{'S'})
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{leaf}})
		b := pgproto3.NewBackend(secure, secure)
		_ = receiveStartup(b)
		say(b, &pgproto3.AuthenticationSASL{AuthMechanisms: mechanisms})
		_ = b.SetAuthType(pgproto3.AuthTypeSASL)
		m, _ := b.Receive()
		response, _ := m.(*pgproto3.SASLInitialResponse)
		responses <- response
	}), TLSVerifyFull)
	target.RootCAs = authority.pool()
	if _, err := logIn(within(t), target, testCredentials, time.Second); err == nil {
		t.Fatal("logged in")
	}
	got := <-responses
	if got == nil || got.AuthMechanism != mechanisms[0] || !bytes.HasPrefix(got.Data, []byte("p=tls-server-end-point,,")) {
		t.Errorf("response is %+v", got)
	}
}

// After a question that was not answered pgconn would dial the server once more, to cancel it.
func TestSessionUsesOneConnection(t *testing.T) {
	noLeaks(t)
	connections := make(chan struct{}, 8)
	target := target(serve(t, func(conn net.Conn) {
		connections <- struct{}{}
		b := pgproto3.NewBackend(conn, conn)
		_ = receiveStartup(b)
		say(b, &pgproto3.AuthenticationOk{}, &pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}},
			&pgproto3.ReadyForQuery{TxStatus: 'I'})
		for { // the statement is prepared, and then there is silence
			m, err := b.Receive()
			if err != nil {
				return
			}
			if _, ok := m.(*pgproto3.Sync); ok {
				break
			}
		}
		say(b, &pgproto3.ParseComplete{}, &pgproto3.ParameterDescription{}, &pgproto3.NoData{}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		_, _ = io.Copy(io.Discard, conn)
	}), TLSOff)
	s, err := logIn(within(t), target, testCredentials, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.ask(ctx); err == nil || !diagnose(err).soft || diagnose(err).status != Silent {
		t.Errorf("error is %v", err)
	}
	if !s.over() {
		t.Error("the session goes on")
	}
	s.close()
	if got := len(connections); got != 1 {
		t.Errorf("%d connections", got)
	}
}

// PgBouncer CVE-2026-6669, pgjdbc CVE-2026-42198: how much a login computes is not the server's to choose. A count of iterations
// that would take hours ends the login at once.
func TestLoginIterations(t *testing.T) {
	noLeaks(t)
	for _, iterations := range []string{"2147483647", "10000001", "99999999999999999999", "0", "-1", ""} {
		answers := make(chan error, 1)
		address := serve(t, func(conn net.Conn) {
			b := pgproto3.NewBackend(conn, conn)
			receiveStartup(b)
			say(b, &pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
			_ = b.SetAuthType(pgproto3.AuthTypeSASL)
			m, err := b.Receive()
			if err != nil {
				answers <- err
				return
			}
			_, nonce, _ := strings.Cut(string(m.(*pgproto3.SASLInitialResponse).Data), "r=")
			say(b, &pgproto3.AuthenticationSASLContinue{Data: []byte("r=" + nonce + "x,s=c2FsdA==,i=" + iterations)})
			_ = b.SetAuthType(pgproto3.AuthTypeSASLContinue)
			_, err = b.Receive()
			answers <- err
		})
		s, err := logIn(within(t), target(address, TLSOff), testCredentials, time.Minute)
		if err == nil {
			s.close()
			t.Fatalf("i=%s: logged in", iterations)
		}
		if !strings.Contains(err.Error(), "iteration") {
			t.Errorf("i=%s: %v, want an error about it", iterations, err)
		}
		if err := <-answers; err == nil {
			t.Errorf("i=%s: the server got a proof", iterations)
		}
	}
}
