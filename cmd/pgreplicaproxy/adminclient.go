package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// adminClient asks the program that runs with a configuration.
type adminClient struct {
	http    http.Client
	base    string // of the addresses asked for
	address string // as the configuration has it, for messages
	token   string // empty where none is needed
}

// adminTimeout bounds one answer, except those that say how long they take.
const adminTimeout = 10 * time.Second

// openAdmin returns a client for the admin listener of a configuration. change says that more than reading is wanted.
func openAdmin(cmd *cobra.Command, configPath string, change bool) (*adminClient, error) {
	cfg, diags := loadConfigWithoutSecrets(configPath)
	if err := reportDiagnostics(cmd.ErrOrStderr(), configPath, errorsOnly(diags)); err != nil {
		return nil, err
	}
	l := cfg.Admin.Listen
	c := &adminClient{base: "http://" + l.Address, address: l.Address}
	transport := &http.Transport{DisableKeepAlives: true}
	if l.Network == "unix" {
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.Address)
		}
	}
	if !l.local() {
		var err error
		if transport.TLSClientConfig, err = adminPeer(cfg); err != nil {
			return nil, err
		}
		c.base = "https://" + reachable(l.Address)
	}
	if change || !l.local() {
		if cfg, diags = loadConfigForAdmin(configPath); cfg == nil {
			return nil, reportDiagnostics(cmd.ErrOrStderr(), configPath, errorsOnly(diags))
		}
		var err error
		if c.token, err = knownToken(cfg); err != nil {
			return nil, err
		}
	}
	c.http.Transport = transport
	return c, nil
}

// errorsOnly leaves out warnings, which the running program has told of when it started.
func errorsOnly(d diagnostics) diagnostics {
	if !d.hasErrors() {
		d.list = nil
	}
	return d
}

// reachable turns an address to listen on into one to connect to.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("localhost", port)
	}
	return address
}

// knownToken returns the token, which the running program has made if the configuration names none.
func knownToken(cfg *config) (string, error) {
	if cfg.Admin.Token != "" {
		return string(cfg.Admin.Token), nil
	}
	token, err := os.ReadFile(tokenFile(cfg))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("no token at %s: pgreplicaproxy makes it when it starts with this configuration", tokenFile(cfg))
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%w: run this as the user that pgreplicaproxy runs as", err)
	}
	return strings.TrimSpace(string(token)), err
}

// adminPeer is how the listener is known on a network address: by one of the certificates of the configuration's files, or by
// the local CA.
func adminPeer(cfg *config) (*tls.Config, error) {
	pairs := cfg.Certificates
	if cfg.Admin.Certificate.CertFile != "" {
		pairs = append(pairs[:0:0], cfg.Admin.Certificate)
	}
	if len(pairs) == 0 {
		ca, err := openLocalCA(cfg)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca.RootPEM())
		return &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}, nil
	}
	known := make([][]byte, len(pairs))
	for i, pair := range pairs {
		text, err := os.ReadFile(pair.CertFile)
		if err != nil {
			return nil, err
		}
		if block, _ := pem.Decode(text); block != nil {
			known[i] = block.Bytes
		}
	}
	return &tls.Config{
		InsecureSkipVerify: true, // the certificate is compared, whatever its names and whoever issued it
		MinVersion:         tls.VersionTLS12,
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, der := range known {
				if bytes.Equal(der, state.PeerCertificates[0].Raw) {
					return nil
				}
			}
			return errors.New("the listener shows another certificate than the configuration names")
		},
	}, nil
}

// get asks for a page of JSON.
func (c *adminClient) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	text, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// post asks for an action, with pairs of names and values, and returns what the program says of it.
func (c *adminClient) post(ctx context.Context, path string, form ...string) (string, error) {
	values := url.Values{}
	for i := 0; i+1 < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	text, err := c.do(ctx, http.MethodPost, path, strings.NewReader(values.Encode()))
	return strings.TrimSpace(string(text)), err
}

// mostAnswer bounds what is read of an answer: some 300,000 sessions.
const mostAnswer = 128 << 20

func (c *adminClient) do(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	switch {
	case err != nil:
		return nil, c.explain(err)
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("the program at %s has another token: does it run with this configuration?", c.address)
	case resp.StatusCode != http.StatusOK:
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return text, nil
}

// explain says what an error of the connection means here.
func (c *adminClient) explain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s: is pgreplicaproxy running with this configuration?", c.address)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is not open to this user: run this as the user that pgreplicaproxy runs as", c.address)
	}
	return fmt.Errorf("ask %s: %w", c.address, err)
}
