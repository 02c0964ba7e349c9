package e2e

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// loginServer is a server that asks some roles for other proof than SCRAM, and whose certificate the front may have too.
type loginServer struct {
	*pgcluster.Server
	version int
	files   string // directory of server.crt, server.key and root.crt
}

// startLoginServer starts one for a test; every role has the password of role app.
func startLoginServer(t *testing.T, version int) loginServer {
	t.Helper()
	cert, key := authority().issue("db.test")
	var hba []string
	for role, method := range map[string]string{"by_md5": "md5", "by_password": "password", "by_trust": "trust"} {
		hba = append(hba, "host all "+role+" 127.0.0.1/32 "+method, "local all "+role+" "+method)
	}
	c := startCluster(t, pgcluster.Config{
		Installation: installation(t, version), HBA: hba,
		TLS: func(string) ([]byte, []byte) { return cert, key },
	})
	s := loginServer{c.Servers()[0], version, t.TempDir()}
	for name, content := range map[string][]byte{"server.crt": cert, "server.key": key, "root.crt": authority().rootPEM()} {
		if err := os.WriteFile(filepath.Join(s.files, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.create(t, "by_md5", "'"+appPassword+"'", "md5")
	for _, role := range []string{"by_password", "by_trust"} {
		s.create(t, role, "'"+appPassword+"'", "scram-sha-256")
	}
	return s
}

// create makes a role. What follows PASSWORD in the statement is password.
func (s loginServer) create(t *testing.T, role, password, encryption string) {
	t.Helper()
	sql := fmt.Sprintf("SET password_encryption = '%s'; CREATE ROLE %s LOGIN PASSWORD %s", encryption, role, password)
	if err := s.Exec(testContext(t), "postgres", sql); err != nil {
		t.Fatal(err)
	}
}

// tcp is the server as a backend, behind lines of the cluster block.
func (s loginServer) tcp(lines ...string) string {
	return backendsHCL(lines, backend{"db1", serverAddress(s.Server), 0})
}

// unix is the server as a backend over its unix socket.
func (s loginServer) unix(lines ...string) string {
	return backendsHCL(lines, backend{"db1", fmt.Sprintf("%s:%d", s.SocketDir, s.Port), 0})
}

// overTLS are the lines of a cluster block for a verified leg.
func (s loginServer) overTLS() []string {
	return []string{
		`authentication = "relay"`,
		"backend_tls {", `  mode = "verify-full"`, fmt.Sprintf("  root_file = %q", filepath.Join(s.files, "root.crt")), "}",
	}
}

// sameCertificate lets the front present the server's certificate.
func (s loginServer) sameCertificate() string {
	return fmt.Sprintf("tls {\n  certificate {\n    cert_file = %q\n    key_file = %q\n  }\n}\n",
		filepath.Join(s.files, "server.crt"), filepath.Join(s.files, "server.key"))
}

// optionalHCL is a listener that takes clients without TLS as well.
const optionalHCL = "listen {\n  address = \"127.0.0.1:0\"\n  tls = \"optional\"\n}\n"

func TestAuthentication(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprintf("PostgreSQL %d", version), func(t *testing.T) {
			s := startLoginServer(t, version)
			t.Run("methods", s.testMethods)
			t.Run("passwords", s.testPasswords)
			t.Run("channel binding", s.testChannelBinding)
			t.Run("channel binding, told", s.testBrokenBinding)
		})
	}
}

// notAllowed is what a client is told when the server asks for a method that the cluster does not allow.
func notAllowed(method string) refusal {
	return refusal{
		"28000", fmt.Sprintf(`server "db1" asks for %s authentication, which cluster "main" does not allow`, method), "",
		"Let pg_hba.conf on the server ask for scram-sha-256, or add the method to allow_authentication.",
	}
}

// A server may ask for SCRAM and nothing else, unless the file allows it.
func (s loginServer) testMethods(t *testing.T) {
	trusted := refusal{
		"28000", `server "db1" asks no authentication of user "by_trust", which cluster "main" does not allow`, "",
		"pg_hba.conf on the server trusts the proxy's address: use scram-sha-256 there.",
	}
	allow := func(methods string) string { return "allow_authentication = [" + methods + "]" }
	for _, test := range []struct {
		name    string
		cluster string
		want    map[string]refusal // by role; the zero one for a login
	}{
		{"default/plain", s.tcp(), map[string]refusal{
			appUser: {}, "by_md5": notAllowed("md5"), "by_password": notAllowed("password"), "by_trust": trusted,
		}},
		{"default/unix socket", s.unix(), map[string]refusal{
			appUser: {}, "by_md5": notAllowed("md5"), "by_password": notAllowed("password"), "by_trust": trusted,
		}},
		{"default/TLS", s.tcp(s.overTLS()...), map[string]refusal{
			appUser: {}, "by_md5": notAllowed("md5"), "by_password": notAllowed("password"), "by_trust": trusted,
		}},
		{"md5 too", s.tcp(allow(`"scram-sha-256", "md5"`)), map[string]refusal{
			appUser: {}, "by_md5": {}, "by_password": notAllowed("password"), "by_trust": trusted,
		}},
		{"md5 only", s.tcp(allow(`"md5"`)), map[string]refusal{
			appUser: notAllowed("scram-sha-256"), "by_md5": {}, "by_trust": trusted,
		}},
		{"trust too", s.tcp(allow(`"scram-sha-256", "trust"`)), map[string]refusal{
			appUser: {}, "by_md5": notAllowed("md5"), "by_password": notAllowed("password"), "by_trust": {},
		}},
		{"password too/TLS", s.tcp(append(s.overTLS(), allow(`"scram-sha-256", "password"`))...), map[string]refusal{
			appUser: {}, "by_md5": notAllowed("md5"), "by_password": {}, "by_trust": trusted,
		}},
		{"password too/unix socket", s.unix(allow(`"scram-sha-256", "password"`)), map[string]refusal{
			appUser: {}, "by_password": {}, "by_trust": trusted,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := serve(t, listenHCL+test.cluster)
			for role, want := range test.want {
				s.checkMethod(t, p, role, want)
			}
		})
	}
	for _, mode := range []string{"off", "require", "verify-ca"} {
		t.Run("password over "+mode, func(t *testing.T) { s.checkPasswordLeg(t, mode) })
	}
}

// checkMethod logs a role in, or checks that it is refused before it could have answered the server.
func (s loginServer) checkMethod(t *testing.T, p *program, role string, want refusal) {
	t.Helper()
	dsn := asUser(p.dsn("app"), role, appPassword) + "&channel_binding=disable"
	if want != (refusal{}) {
		client := p.dialTLS(t)
		client.say(startup(protocol3, "user", role, "database", "app"))
		want.check(t, client.refusal()) // and no request of the server before it
		return
	}
	if got := query(t, dsn, "SELECT current_user"); got != role {
		t.Errorf("role %s is %q on the server", role, got)
	}
}

// checkPasswordLeg wants the file refused that would let passwords pass over a leg which does not protect them.
func (s loginServer) checkPasswordLeg(t *testing.T, mode string) {
	lines := []string{`authentication = "relay"`, `allow_authentication = ["password"]`, "backend_tls {", fmt.Sprintf("  mode = %q", mode)}
	if mode == "verify-ca" {
		lines = append(lines, fmt.Sprintf("  root_file = %q", filepath.Join(s.files, "root.crt")))
	}
	file := filepath.Join(t.TempDir(), "pgreplicaproxy.hcl")
	hcl := strings.Replace(s.tcp(append(lines, "}")...), `file("monitor.password")`, `env("NOT_SET", "")`, 1)
	if err := os.WriteFile(file, []byte(hcl), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "check", "--config", file).CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("check ended with %v, want exit status 2", err)
	}
	if !strings.Contains(string(out), "Passwords over an open connection") {
		t.Errorf("check prints %s", out)
	}
}

// Passwords that are right, wrong, too old or none at all come to the same through the program and without it.
func (s loginServer) testPasswords(t *testing.T) {
	p := serve(t, listenHCL+s.tcp())
	s.create(t, "expired", "'"+appPassword+"' VALID UNTIL '2000-01-01'", "scram-sha-256")
	s.create(t, "without_password", "NULL", "scram-sha-256")
	for name, test := range map[string]struct{ user, password string }{
		"expired":               {"expired", appPassword},
		"wrong":                 {appUser, "wrong"},
		"role without password": {"without_password", appPassword},
		"unknown role":          {"nobody", appPassword},
	} {
		t.Run(name, func(t *testing.T) {
			direct := connectError(t, fmt.Sprintf("postgresql://%s:%s@%s/app?sslmode=disable", test.user, test.password, serverAddress(s.Server)))
			through := connectError(t, asUser(p.dsn("app"), test.user, test.password))
			if *through != *direct || through.Code != "28P01" {
				t.Errorf("client is told\n got %+v\nwant %+v", *through, *direct)
			}
		})
	}
	t.Run("wrong after right", func(t *testing.T) { // nothing is remembered of the login before (pgpool CVE-2025-46801)
		for range 3 {
			connect(t, p.dsn("app"))
			if told := connectError(t, asUser(p.dsn("app"), appUser, "wrong")); told.Code != "28P01" {
				t.Errorf("client is told %v, want 28P01", told)
			}
		}
	})
	t.Run("one iteration", func(t *testing.T) {
		s.create(t, "hasty", "'"+scramSecret(t, "hasty-secret", 1)+"'", "scram-sha-256")
		dsn := asUser(p.dsn("app"), "hasty", "hasty-secret")
		connect(t, dsn)
		for _, libDir := range libpqs(t) {
			if _, stderr, err := psql(t, libDir, dsn, "-c", "SELECT 1"); err != nil {
				t.Errorf("psql: %v: %s", err, stderr)
			}
		}
	})
	t.Run("SASLprep", func(t *testing.T) { // RFC 4013: roman numeral nine, no-break space, soft hyphen
		const written, prepared = "\u2168\u00a0pass\u00adword", "IX password"
		s.create(t, "unicode", "'"+written+"'", "scram-sha-256")
		for _, password := range []string{written, prepared} {
			for library, libDir := range libpqs(t) {
				dsn := asUser(p.dsn("app"), "unicode", url.PathEscape(password))
				if _, stderr, err := psql(t, libDir, dsn, "-c", "SELECT 1"); err != nil {
					t.Errorf("%s, password %q: %v: %s", library, password, err, stderr)
				}
			}
		}
	})
}

// scramSecret is what a server stores of a password (manual, "pg_authid"; RFC 5803).
func scramSecret(t *testing.T, password string, iterations int) string {
	t.Helper()
	salt := []byte("a salt of the test")
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	key := func(of string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(of))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(key("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(stored[:]), encode(key("Server Key")))
}
