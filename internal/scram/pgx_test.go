package scram

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"
)

// login is what a test's front does with the driver that connects to it.
type login struct {
	secret  Secret
	doomed  bool
	binding []byte
	plus    bool // what the driver has to choose
}

// TestPgx lets a driver that people use log in, with and without channel binding, and the key it yields log in once more.
func TestPgx(t *testing.T) {
	defer goleak.VerifyNone(t)
	certificate := selfSigned(t, elliptic.P384())
	hash, ok := EndPoint(certificate.Leaf)
	if !ok {
		t.Fatal("no channel binding for the test's certificate")
	}
	_, secret := derive("pencil", salt, 4096)
	for _, c := range []struct {
		name, password, channelBinding string
		tls                            bool
		login                          login
		want                           string // SQLSTATE
	}{
		{"plain", "pencil", "prefer", false, login{secret, false, nil, false}, ""},
		{"plain, wrong password", "pencils", "prefer", false, login{secret, false, nil, false}, "28P01"},
		{"plain, doomed", "pencil", "prefer", false, login{secret, true, nil, false}, "28P01"},
		{"PLUS required", "pencil", "require", true, login{secret, false, hash, true}, ""},
		{"PLUS preferred", "pencil", "prefer", true, login{secret, false, hash, true}, ""},
		{"PLUS disabled", "pencil", "disable", true, login{secret, false, hash, false}, ""},
		{"PLUS, wrong password", "pencils", "require", true, login{secret, false, hash, true}, "28P01"},
		{"PLUS, another certificate", "pencil", "require", true, login{secret, false, frontHash, true}, "28000"},
		{"PLUS not offered", "pencil", "prefer", true, login{secret, false, nil, false}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			config, err := pgconn.ParseConfig("host=127.0.0.1 user=somebody sslmode=disable channel_binding=" + c.channelBinding)
			if err != nil {
				t.Fatal(err)
			}
			config.Password = c.password
			front := func(conn net.Conn) error { return c.login.serve(conn) }
			if c.tls {
				config.TLSConfig = &tls.Config{InsecureSkipVerify: true}
				front = func(conn net.Conn) error { return c.login.serveTLS(conn, certificate) }
			}
			served := make(chan error, 1)
			config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
				driver, conn := net.Pipe()
				go func() {
					defer conn.Close()
					served <- front(conn)
				}()
				return driver, nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			conn, err := pgconn.ConnectConfig(ctx, config)
			if err == nil {
				_ = conn.Close(ctx)
			}
			if err := <-served; err != nil {
				t.Errorf("front: %v", err)
			}
			var refusal *pgconn.PgError
			if errors.As(err, &refusal) && refusal.Code != c.want || refusal == nil && (err != nil || c.want != "") {
				t.Errorf("got %v, want SQLSTATE %q", err, c.want)
			}
		})
	}
}

func (l login) serveTLS(conn net.Conn, certificate tls.Certificate) error {
	if _, err := pgproto3.NewBackend(conn, conn).ReceiveStartupMessage(); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("S")); err != nil {
		return err
	}
	return l.serve(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}}))
}

// serve is a front's side of a login, in which the driver is refused or brought as far as an idle session. The error is for
// what should not happen at all.
func (l login) serve(conn net.Conn) error {
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return err
	}
	server := NewServer(l.secret, l.doomed, l.binding)
	defer server.Wipe()
	key, err := l.exchange(backend, server)
	defer key.Wipe()
	for code, refusal := range map[string]error{"28P01": ErrProof, "28000": ErrChannelBinding} {
		if errors.Is(err, refusal) {
			backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: err.Error()})
			return backend.Flush()
		}
	}
	if err != nil {
		return err
	}
	if err := again(key, l.secret); err != nil {
		return fmt.Errorf("login with the key: %w", err)
	}
	backend.Send(&pgproto3.AuthenticationSASLFinal{Data: server.ServerFinal()})
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := backend.Flush(); err != nil {
		return err
	}
	// A driver that did not like the server-final-message would not say goodbye.
	if m, err := backend.Receive(); err != nil {
		return err
	} else if _, ok := m.(*pgproto3.Terminate); !ok {
		return fmt.Errorf("the driver sent %T", m)
	}
	return nil
}

func (l login) exchange(backend *pgproto3.Backend, server *Server) (*Key, error) {
	backend.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: server.Mechanisms()})
	if err := backend.Flush(); err != nil {
		return nil, err
	}
	if err := backend.SetAuthType(pgproto3.AuthTypeSASL); err != nil {
		return nil, err
	}
	message, err := backend.Receive()
	if err != nil {
		return nil, err
	}
	initial, ok := message.(*pgproto3.SASLInitialResponse)
	if !ok || (initial.AuthMechanism == mechanismPlus) != l.plus {
		return nil, fmt.Errorf("the driver sent %T %v", message, message)
	}
	challenge, err := server.First(initial.AuthMechanism, initial.Data)
	if err != nil {
		return nil, err
	}
	backend.Send(&pgproto3.AuthenticationSASLContinue{Data: challenge})
	if err := backend.Flush(); err != nil {
		return nil, err
	}
	if err := backend.SetAuthType(pgproto3.AuthTypeSASLContinue); err != nil {
		return nil, err
	}
	if message, err = backend.Receive(); err != nil {
		return nil, err
	}
	response, ok := message.(*pgproto3.SASLResponse)
	if !ok {
		return nil, fmt.Errorf("the driver sent %T", message)
	}
	return server.Final(slices.Clone(response.Data))
}

// again logs in with key, over another channel.
func again(key *Key, secret Secret) error {
	server, client := NewServer(secret, false, backHash), NewClient(key, secret, backHash)
	challenge, err := server.First(client.Mechanism(), client.First())
	if err != nil {
		return err
	}
	response, err := client.Final(challenge)
	if err != nil {
		return err
	}
	if _, err := server.Final(response); err != nil {
		return err
	}
	return client.Verify(server.ServerFinal())
}

// selfSigned returns a certificate of a fresh key, signed with the hash that goes with the curve.
func selfSigned(t *testing.T, curve elliptic.Curve) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "front"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
