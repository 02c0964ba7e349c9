package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
	"github.com/replicon/pgreplicaproxy/wire"
)

// impression is what a client that does not know the password gets to see of a role.
type impression struct {
	types, mechanisms      string
	nonce, salt, iteration string // of the server's first message
	told                   string // with the role's name left out
}

// look logs in with a proof that is wrong.
func (p *program) look(t *testing.T, role string) impression {
	t.Helper()
	var seen impression
	client := scramClient{mechanism: "SCRAM-SHA-256", header: "n,,"}
	all := p.dialTLS(t).login(role, func(code wire.AuthCode, data []byte) string {
		switch code {
		case wire.AuthSASL:
			seen.mechanisms = string(data)
		case wire.AuthSASLContinue:
			fields := strings.Split(string(data), ",")
			seen.nonce, seen.salt, seen.iteration = fields[0], fields[1], fields[2]
		}
		return client.answer(code, data)
	})
	seen.types = loginTypes(all)
	if told := toldError(t, all); told != nil {
		seen.told = strings.ReplaceAll(fmt.Sprintf("%+v", *told), role, "ROLE")
	}
	return seen
}

// strangers are roles that cannot log in, each for a reason of its own, and one that can.
var strangers = map[string]string{
	"real": "LOGIN PASSWORD 'secret'", "expired": "LOGIN PASSWORD 'secret' VALID UNTIL '2000-01-01'", "without": "LOGIN",
	"hashed": "LOGIN PASSWORD 'md5000102030405060708090a0b0c0d0e0f'", "with_super": "SUPERUSER LOGIN PASSWORD 'secret'",
	"nologin": "PASSWORD 'secret'",
}

// mockServer has these roles. From 16 on, secrets have another count of iterations than the default.
func mockServer(t *testing.T, version int) *pgcluster.Cluster {
	t.Helper()
	config := pgcluster.Config{Installation: installation(t, version), TLS: serverCertificate}
	if version >= 16 {
		config.Settings = map[string]string{"scram_iterations": "5000"}
	}
	c := startCluster(t, config)
	createRoles(t, c, strangers)
	installSecretFunction(t, c)
	return c
}

// A role that cannot log in looks like one that can, to somebody without the password, and so does one that does not exist:
// by every message of the exchange, today and later, here and at another program with the same key.
func TestPassthroughMock(t *testing.T) {
	for _, version := range versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			c := mockServer(t, version)
			hcl := listenHCL + passthroughHCL(t, c)
			p := serve(t, hcl)
			want := p.look(t, "real")
			if count := map[int]string{15: "i=4096", 18: "i=5000"}[version]; want.iteration != count || want.types != "RRE" {
				t.Errorf("a real role is seen as %+v, want %s", want, count)
			}
			salts := map[string]string{want.salt: "real"}
			for _, role := range []string{"expired", "without", "hashed", "with_super", "nologin", "nobody", "nobody2", "x", strings.Repeat("y", 63)} {
				got := p.look(t, role)
				if other, twice := salts[got.salt]; twice {
					t.Errorf("roles %s and %s have the same salt", role, other)
				}
				salts[got.salt] = role
				if again := p.look(t, role); again.salt != got.salt || again.nonce == got.nonce {
					t.Errorf("role %s: seen as %+v, then as %+v", role, got, again)
				}
				if len(got.salt) != len(want.salt) || len(got.nonce) != len(want.nonce) {
					t.Errorf("role %s is seen as %+v, a real one as %+v", role, got, want)
				}
				got.salt, got.nonce = want.salt, want.nonce
				if got != want {
					t.Errorf("role %s is seen as\n     %+v\nwant %+v", role, got, want)
				}
			}
			before := p.look(t, "nobody").salt
			p = p.restart(t)
			if after := p.look(t, "nobody").salt; after != before {
				t.Errorf("a restart changed the salt from %s to %s", before, after)
			}
			if other := serve(t, hcl).look(t, "nobody").salt; other == before {
				t.Error("two programs with keys of their own have the same salt")
			}
		})
	}
}

// Programs with the same key file give the same answers.
func TestPassthroughMockKeyFile(t *testing.T) {
	c := mockServer(t, versions[0])
	hcl := listenHCL + passthroughHCL(t, c, fmt.Sprintf("mock_key_file = %q", tempFile(t, "mock.key", bytes.Repeat([]byte("key!"), 8))))
	first, second := serve(t, hcl), serve(t, hcl)
	for _, role := range []string{"nobody", "expired"} {
		if a, b := first.look(t, role).salt, second.look(t, role).salt; a != b {
			t.Errorf("role %s has salt %s here and %s there", role, a, b)
		}
	}
}

// restart stops the program and starts it again with the same files.
func (p *program) restart(t *testing.T) *program {
	t.Helper()
	p.stop()
	q := &program{t: t, dir: p.dir, done: make(chan struct{}), more: make(chan struct{})}
	q.cmd = exec.Command(binary, p.cmd.Args[1:]...)
	q.cmd.Env = p.cmd.Env
	stderr, err := q.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := q.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go q.follow(stderr)
	t.Cleanup(q.stop)
	q.addr = fmt.Sprint(q.waitLog("listening", nil)["address"])
	return q
}

// A wrong password costs the same questions to the server for every kind of role. Time would tell the difference otherwise.
func TestPassthroughMockWork(t *testing.T) {
	c := mockServer(t, versions[1])
	primary := c.Servers()[0]
	for _, sql := range []string{
		"CREATE SEQUENCE pgreplicaproxy.asked",
		"ALTER FUNCTION pgreplicaproxy.scram_secret(text) RENAME TO real_secret",
		`CREATE FUNCTION pgreplicaproxy.scram_secret(role_name text) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS
			$$SELECT CASE WHEN role_name = '' THEN NULL -- asked by the program for itself
				WHEN nextval('pgreplicaproxy.asked') > 0 THEN pgreplicaproxy.real_secret(role_name) END$$`,
	} {
		if err := primary.Exec(testContext(t), "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	p := serve(t, listenHCL+passthroughHCL(t, c))
	asked := func() int {
		t.Helper()
		text, err := primary.QueryString(testContext(t), "postgres", "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM pgreplicaproxy.asked")
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(text)
		return n
	}
	for _, role := range []string{"real", "expired", "without", "hashed", "with_super", "nologin", "nobody"} {
		for login, want := range []int{2, 1, 1} { // before the exchange if it is not remembered, and once in doubt
			before := asked()
			if seen := p.look(t, role); seen.types != "RRE" {
				t.Errorf("role %s is seen as %+v", role, seen)
			}
			if got := asked() - before; got != want {
				t.Errorf("role %s, login %d: the server was asked %d times, want %d", role, login+1, got, want)
			}
		}
	}
	before := asked()
	for range 3 {
		connect(t, asUser(p.dsn("app"), "real", "secret"))
	}
	if got := asked() - before; got != 0 {
		t.Errorf("logins with the right password asked the server %d times, want none", got)
	}
}

// An idle program has no ClientKey in its memory, although it had one for each login.
func TestPassthroughForgetsKeys(t *testing.T) {
	c := mockServer(t, versions[0])
	p := serve(t, listenHCL+passthroughHCL(t, c))
	secret := storedSecret(t, c.Servers()[0], "real")
	key := clientKey(t, "secret", secret)
	var sessions []interface{ PID() uint32 }
	for range 10 {
		sessions = append(sessions, connect(t, asUser(p.dsn("app", "channel_binding=require", "sslmode=verify-full", "sslrootcert="+p.rootFile()), "real", "secret")))
	}
	for range 300 { // work enough for the garbage collector
		if err := loginOnce(testContext(t), p.dsn("app")); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.search(t, secret.StoredKey[:]); n == 0 {
		t.Error("the StoredKey is not in memory: the search is broken")
	}
	if n := p.search(t, key[:]); n != 0 {
		t.Errorf("the ClientKey is in memory %d times, with %d sessions", n, len(sessions))
	}
	other := clientKey(t, appPassword, storedSecret(t, c.Servers()[0], appUser))
	if n := p.search(t, other[:]); n != 0 {
		t.Errorf("the ClientKey of the role that logged in last is in memory %d times", n)
	}
}

// search counts where bytes occur in the memory that the program may write to (proc_pid_maps(5)).
func (p *program) search(t *testing.T, what []byte) (count int) {
	t.Helper()
	process := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	maps, err := os.ReadFile(filepath.Join(process, "maps"))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(filepath.Join(process, "mem"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = memory.Close() }()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); err != nil || access[:2] != "rw" {
			continue
		}
		if to-from > 4<<30 { // of the race detector, which keeps no values
			continue
		}
		content, err := io.ReadAll(io.NewSectionReader(memory, from, to-from))
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && len(content) == 0 {
			continue // not there any more
		}
		for at := bytes.Index(content, what); at >= 0; at = bytes.Index(content, what) {
			count++
			t.Logf("found at %x in %s", from, strings.TrimSpace(line))
			content = content[at+len(what):]
		}
	}
	return count
}
