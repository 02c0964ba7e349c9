package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// frontKinds are certificates of the front by what signs them, since that decides the hash of the channel binding (RFC 5929,
// section 4.1), or that there is none.
var frontKinds = []struct {
	name   string
	bound  bool // SCRAM-SHA-256-PLUS is offered
	signer func() (crypto.Signer, error)
	method x509.SignatureAlgorithm
}{
	{"RSA", true, newRSA, x509.SHA256WithRSA},
	{"RSA with SHA-512", true, newRSA, x509.SHA512WithRSA},
	{"ECDSA P-256", true, newECDSA(elliptic.P256()), x509.ECDSAWithSHA256},
	{"ECDSA P-384", true, newECDSA(elliptic.P384()), x509.ECDSAWithSHA384},
	{"Ed25519", false, newEd25519, x509.PureEd25519},
}

func newRSA() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }

func newECDSA(curve elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve, rand.Reader) }
}

func newEd25519() (crypto.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// selfSigned is a certificate for loopback that is its own root.
func selfSigned(t *testing.T, signer func() (crypto.Signer, error), method x509.SignatureAlgorithm) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := signer()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "front.test"}, SignatureAlgorithm: method,
		DNSNames: []string{"front.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// passthroughLegs are the ways to the servers in this mode.
func passthroughLegs(t *testing.T, c *pgcluster.Cluster) map[string]string {
	t.Helper()
	mode := []string{`authentication = "scram_passthrough"`}
	var sockets []backend
	for _, s := range c.Servers() {
		sockets = append(sockets, backend{s.Name, fmt.Sprintf("%s:%d", s.SocketDir, s.Port), 0})
	}
	return map[string]string{
		"unix socket":     backendsHCL(mode, sockets...),
		"plain leg":       clusterHCL(c, mode...),
		"verify-full leg": passthroughHCL(t, c),
	}
}

// Every client logs in with every setting, except where it demands channel binding and the front's certificate has none.
func TestPassthroughMatrix(t *testing.T) {
	wants := map[bool]map[string]string{
		true:  {"disable": loggedIn, "prefer": loggedIn, "require": loggedIn, "bind": loggedIn},
		false: {"disable": loggedIn, "prefer": loggedIn, "require": refusedLocally, "bind": loggedIn},
	}
	for _, version := range versions {
		c := sharedCluster(t, version)
		installSecretFunction(t, c)
		for leg, cluster := range passthroughLegs(t, c) {
			for _, kind := range frontKinds {
				t.Run(fmt.Sprintf("PostgreSQL %d/%s/%s", version, leg, kind.name), func(t *testing.T) {
					cert, key := selfSigned(t, kind.signer, kind.method)
					p := serve(t, listenHCL+certificateHCL(t, cert, key)+cluster)
					dsn := p.dsn("app", "sslmode=verify-full", "sslrootcert="+tempFile(t, "front.crt", cert))
					checkBinders(t, dsn, wants[kind.bound])
				})
			}
			t.Run(fmt.Sprintf("PostgreSQL %d/%s/client without TLS", version, leg), func(t *testing.T) {
				p := serve(t, optionalHCL+cluster)
				// node-postgres says that it would have bound its login, which is true and may be said where nothing was offered.
				checkBinders(t, p.dsn("app", "sslmode=disable"), wants[false])
			})
		}
	}
}

// checkBinders logs in with every client in every of its ways.
func checkBinders(t *testing.T, dsn string, want map[string]string) {
	t.Helper()
	for _, client := range binders(t) {
		for _, mode := range client.modes {
			if got := outcome(client.login(t, dsn, mode)); got != want[mode] {
				t.Errorf("%s, channel binding %s: %s, want: %s", client.name, mode, got, want[mode])
			}
		}
	}
}

// The version of the protocol is settled before the server is asked, and it is one that the server speaks too. Options of
// the protocol are declined as the servers do.
func TestPassthroughProtocolVersions(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		installSecretFunction(t, c)
		p := serve(t, listenHCL+passthroughHCL(t, c))
		for _, test := range minorVersions {
			if test.server != version {
				continue
			}
			t.Run(fmt.Sprintf("PostgreSQL %d/%s to %s", version, test.min, test.max), func(t *testing.T) {
				dsn := p.dsn("app", "min_protocol_version="+test.min, "max_protocol_version="+test.max, "channel_binding=require")
				_, stderr, err := psql(t, libpqs(t)["libpq18"], dsn, "-c", "SELECT 1")
				if (err == nil) != test.accepted {
					t.Errorf("psql: %v: %s", err, stderr)
				}
				conn, err := pgconn.Connect(testContext(t), dsn)
				if (err == nil) != test.accepted {
					t.Fatalf("pgx: %v", err)
				}
				if err != nil {
					return
				}
				if got := len(conn.SecretKey()); got != test.keyBytes {
					t.Errorf("cancel key has %d bytes, want %d", got, test.keyBytes)
				}
				_ = conn.Close(testContext(t))
			})
		}
		newest := map[int]uint32{15: protocol3, 18: protocol3 + 2}[version]
		for name, test := range map[string]struct {
			asked   uint32
			option  string
			settled string // the body of the server's NegotiateProtocolVersion, "" for none
		}{
			"as the server speaks":      {newest, "", ""},
			"newer":                     {protocol3 + 9999, "", word(newest) + word(0)},
			"with an option":            {protocol3, "_pq_.test", word(protocol3) + word(1) + "_pq_.test\x00"},
			"newer and with an option":  {protocol3 + 9999, "_pq_.test", word(newest) + word(1) + "_pq_.test\x00"},
			"3.1, which nobody defined": {protocol3 + 1, "", map[int]string{15: word(protocol3) + word(0)}[version]},
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%s", version, name), func(t *testing.T) {
				params := []string{"user", appUser, "database", "app"}
				if test.option != "" {
					params = append(params, test.option, "on")
				}
				conn := p.dialTLS(t)
				conn.say(startup(test.asked, params...))
				conn.closeWrite()
				messages := cutMessages(t, conn.rest())
				settled := ""
				if messages[0].Type == 'v' {
					settled, messages = string(messages[0].Body), messages[1:]
				}
				if settled != test.settled {
					t.Errorf("settled is %q, want %q", settled, test.settled)
				}
				if len(messages) != 1 || messages[0].Type != 'R' {
					t.Errorf("the program sent %q, want the list of mechanisms", messages)
				}
				told, _, _ := strings.Cut(settled, "_pq_")
				same := directSettled(t, c, test.asked, params)
				if same, _, _ := strings.Cut(same, "_pq_"); told != same {
					t.Errorf("settled is %q, and by the server itself %q", settled, same)
				}
			})
		}
	}
}

// directSettled is what a server itself answers: the body of its NegotiateProtocolVersion, "" for none.
func directSettled(t *testing.T, c *pgcluster.Cluster, version uint32, params []string) string {
	t.Helper()
	conn, err := net.Dial("tcp", serverAddress(c.Servers()[0]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	direct := &rawClient{Conn: conn, t: t}
	direct.say(startup(version, params...))
	direct.closeWrite()
	if m := cutMessages(t, direct.rest())[0]; m.Type == 'v' {
		return string(m.Body)
	}
	return ""
}

// Cancel requests find their session in this mode too, with keys short and long.
func TestPassthroughCancel(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		installSecretFunction(t, c)
		p := serve(t, listenHCL+passthroughHCL(t, c))
		for _, newest := range map[int][]string{15: {"3.0"}, 18: {"3.0", "3.2"}}[version] {
			dsn := p.dsn("app", "max_protocol_version="+newest, "channel_binding=require")
			t.Run(fmt.Sprintf("PostgreSQL %d/%s/psql", version, newest), func(t *testing.T) {
				cmd := exec.CommandContext(testContext(t), filepath.Join(installation(t, 15).BinDir, "psql"), "-X", "-d", dsn,
					"-c", endless("psql_is_here"))
				cmd.Env = cleanEnvironment("LD_LIBRARY_PATH=" + libpqs(t)["libpq18"])
				var stderr strings.Builder
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				waitActive(t, c.Servers()[0], "psql_is_here")
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "canceling statement due to user request") {
					t.Errorf("psql: %v: %s", err, stderr.String())
				}
			})
			t.Run(fmt.Sprintf("PostgreSQL %d/%s/pgx", version, newest), func(t *testing.T) {
				conn := connect(t, dsn)
				ended := startQuery(testContext(t), conn, endless("pgx_is_here"))
				waitActive(t, c.Servers()[0], "pgx_is_here")
				if err := conn.CancelRequest(testContext(t)); err != nil {
					t.Error(err)
				}
				checkState(t, <-ended, "57014")
			})
		}
	}
}
