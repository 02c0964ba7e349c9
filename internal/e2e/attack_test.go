package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/replicon/pgreplicaproxy/wire"
)

// welcoming is a server that lets everyone in and then listens.
func welcoming(s *fakeSession) {
	s.say(authOK, keyData, readyForQuery)
	s.hold()
}

// trustHCL lets a fake server do so.
var trustHCL = []string{`allow_authentication = ["scram-sha-256", "trust"]`}

// serveFake starts the program in front of a fake primary alone.
func serveFake(t *testing.T, f *fakeServer, lines ...string) *program {
	t.Helper()
	return serve(t, listenHCL+backendsHCL(lines, backend{"db1", f.address, 0}))
}

// CVE-2021-23214, CVE-2021-3935 (PgBouncer), CVE-2021-43766 (Odyssey): what somebody on the way puts behind the client's
// SSLRequest must never count as the client's own.
func TestAttackBytesBehindSSLRequest(t *testing.T) {
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], welcoming)
	p := serveFake(t, f, trustHCL...)
	stuffed := asApp("app") + message('Q', "DROP TABLE t\x00")
	for name, attack := range map[string]func(c *rawClient){
		"in one segment, then a handshake": func(c *rawClient) { c.say(sslRequest, stuffed) },
		"behind the answer":                func(c *rawClient) { c.say(sslRequest); c.say(stuffed) },
		"a query alone":                    func(c *rawClient) { c.say(sslRequest, message('Q', "SELECT 1\x00")) },
		"a second SSLRequest":              func(c *rawClient) { c.say(sslRequest, sslRequest) },
	} {
		t.Run(name, func(t *testing.T) {
			c := p.dialRaw(t)
			attack(c)
			var answer [1]byte
			if _, err := io.ReadFull(c, answer[:]); err != nil || answer[0] != 'S' {
				t.Fatalf("answer to SSLRequest: %q, %v", answer, err)
			}
			secure := tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"postgresql"}})
			if err := secure.Handshake(); err == nil {
				t.Error("TLS was spoken behind the stuffed bytes")
			}
		})
	}
	if n := f.sessions.Load(); n != 0 {
		t.Errorf("%d sessions reached the server, want none", n)
	}
	t.Run("a ClientHello is none", func(t *testing.T) { // manual, "SSL Session Encryption": it may come at once
		c := p.dialRaw(t)
		c.Conn = &optimistic{Conn: c.Conn, ahead: sslRequest}
		c.secure("postgresql")
		c.say(asApp("app"))
		var first [1]byte
		if _, err := io.ReadFull(c, first[:]); err != nil || first[0] != 'R' {
			t.Errorf("the program sent %q, %v; want the server's AuthenticationOk", first, err)
		}
		if n := f.sessions.Load(); n != 1 {
			t.Errorf("%d sessions reached the server, want 1", n)
		}
	})
}

// optimistic sends some bytes ahead of its first write, in one piece with it, and swallows the answer to them, one byte.
type optimistic struct {
	net.Conn
	ahead    string
	answered bool
}

func (c *optimistic) Write(b []byte) (int, error) {
	ahead := len(c.ahead)
	n, err := c.Conn.Write(append([]byte(c.ahead), b...))
	c.ahead = ""
	return n - ahead, err
}

func (c *optimistic) Read(b []byte) (int, error) {
	if !c.answered {
		c.answered = true
		if _, err := c.Conn.Read(make([]byte, 1)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(b)
}

// CVE-2015-4054 (PgBouncer): a password, or anything else, before the startup packet. The program closes such connections,
// with an error of the protocol at most, and lives.
func TestAttackMessagesBeforeStartup(t *testing.T) {
	p := serve(t, listenHCL+clusterHCL(sharedCluster(t, versions[0])))
	packets := []string{
		message('p', "secret\x00"), message('Q', "SELECT 1\x00"), message('X', ""), message('S', ""),
		"\x00\x00\x00\x00", "\x00\x00\x00\x03abc", "\x00\x00\x00\x04", "\x00\x00\x00\x07abc", "\x00\x00\x00\x08abcd",
		word(10001) + word(protocol3), word(1<<31) + word(protocol3), word(1<<32-1) + word(protocol3),
		word(9) + word(protocol3) + "u", word(13) + word(protocol3) + "user\x00", word(14) + word(protocol3) + "user\x00\x00",
		word(uint32(len(asApp("app"))+1)) + asApp("app")[4:] + "x", sslRequest[:7], "\x16", "\x16\x03\x01\xff\xff",
		"GET / HTTP/1.1\r\nHost: echo-echo\r\n\r\n", "EHLO echo-echo\r\n",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		packet := make([]byte, 1+random.IntN(40))
		for i := range packet {
			packet[i] = byte(random.Uint32() >> 5)
		}
		packets = append(packets, string(packet))
	}
	for name, dial := range map[string]func(*testing.T) *rawClient{"clear": p.dialRaw, "TLS": p.dialTLS} {
		for _, packet := range packets {
			c := dial(t)
			c.say(packet)
			c.closeWrite()
			if got := string(c.rest()); got != "" && got[0] != 'E' && got[0] != 'S' && got[0] != 'N' && got[0] != 0x15 ||
				strings.Contains(got, "echo") {
				t.Errorf("%s: the program answered %q with %q", name, packet, got)
			}
		}
	}
	connect(t, p.dsn("app"))
}

// secondStartup is a startup packet that names somebody else. It is long enough to be refused as any other message as well,
// whoever reads its first byte as a type: its length is then more than a login takes.
func secondStartup(user string) string {
	return startup(protocol3, "user", user, "database", "app", "application_name", strings.Repeat("x", 300))
}

// PgBouncer CVE-2026-107350: a startup packet in the middle of a login must not change who logs in. It is no answer to the
// server's request, and the server hears nothing of it.
func TestAttackSecondStartup(t *testing.T) {
	heard := make(chan string, 10)
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], func(s *fakeSession) {
		s.say(askForSCRAM)
		if m := s.next(); m.Type != 0 {
			heard <- "the first answer"
			s.say(authRequest(11, "r=12345678xxxxxxxx,s=c2FsdA==,i=4096"))
		}
		if m := s.next(); m.Type != 0 {
			heard <- fmt.Sprintf("%q", m)
		}
		heard <- "the end of " + s.startup.User()
	})
	p := serveFake(t, f)
	first, again := message('p', "SCRAM-SHA-256\x00"+word(16)+"n,,n=,r=12345678"), secondStartup("postgres")
	for name, test := range map[string]struct {
		answers map[wire.AuthCode]string
		types   string
		heard   []string
	}{
		"instead of the first":  {map[wire.AuthCode]string{wire.AuthSASL: again}, "RE", nil},
		"behind the first":      {map[wire.AuthCode]string{wire.AuthSASL: first + again}, "RRE", []string{"the first answer"}},
		"instead of the second": {map[wire.AuthCode]string{wire.AuthSASL: first, wire.AuthSASLContinue: again}, "RRE", []string{"the first answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			sessions := f.sessions.Load()
			messages := p.dialTLS(t).login(appUser, func(code wire.AuthCode, _ []byte) string { return test.answers[code] })
			checkLogin(t, messages, test.types, "08P01")
			for _, want := range append(test.heard, "the end of "+appUser) {
				if got := <-heard; got != want {
					t.Errorf("the server heard %s, want %s", got, want)
				}
			}
			if n := f.sessions.Load() - sessions; n != 1 {
				t.Errorf("%d sessions reached the server, want 1", n)
			}
		})
	}
}

// CVE-2026-14681 (PostgreSQL): a request for encryption inside TLS ends the connection, without an answer.
func TestAttackNegotiationInsideTLS(t *testing.T) {
	p := serve(t, listenHCL+clusterHCL(sharedCluster(t, versions[0])))
	for name, request := range map[string]string{"SSLRequest": sslRequest, "GSSENCRequest": gssEncRequest, "TLS": "\x16\x03\x01"} {
		for way, dial := range cancelWays {
			if way == "clear" {
				continue
			}
			c := dial(p, t)
			c.say(request, asApp("app"))
			if got := c.rest(); len(got) > 0 {
				t.Errorf("%s inside %s: the program sent %q", name, way, got)
			}
		}
	}
}

// ALPACA: a client of another protocol that was led here finds no server of its own.
func TestAttackOtherProtocols(t *testing.T) {
	p := serve(t, listenHCL+clusterHCL(sharedCluster(t, versions[0])))
	for _, test := range []struct {
		name      string
		direct    bool
		protocols []string
		served    bool
	}{
		{"direct, another protocol", true, []string{"h2", "http/1.1"}, false},
		{"direct, none", true, nil, false},
		{"direct, ours among others", true, []string{"h2", "postgresql"}, true},
		{"another protocol", false, []string{"http/1.1"}, false},
		{"none", false, nil, true}, // as libpq does before version 17
	} {
		t.Run(test.name, func(t *testing.T) {
			c := p.dialRaw(t)
			if !test.direct {
				c.Conn = &optimistic{Conn: c.Conn, ahead: sslRequest}
			}
			c.Conn = tls.Client(c.Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: test.protocols})
			_, _ = io.WriteString(c, asApp("app"))
			if !test.served {
				if got := c.rest(); len(got) > 0 {
					t.Errorf("the program sent %q", got)
				}
				return
			}
			var first [1]byte
			if _, err := io.ReadFull(c, first[:]); err != nil || first[0] != 'R' {
				t.Errorf("the program sent %q, %v; want the server's request", first, err)
			}
		})
	}
}

// PgBouncer CVE-2026-6664: lengths of the first SASL message that are not those of its data.
func TestAttackSASLLengths(t *testing.T) {
	for _, version := range versions {
		p := serve(t, listenHCL+clusterHCL(sharedCluster(t, version)))
		const mechanism, first = "SCRAM-SHA-256\x00", "n,,n=,r=abcdefghijklmnopqrstuvwx"
		padded := func(size int) string { // a message body of that size, right but for that
			data := first + strings.Repeat("x", size-len(mechanism)-4-len(first))
			return mechanism + word(uint32(len(data))) + data
		}
		for name, test := range map[string]struct{ sent, want, code string }{
			"right":          {message('p', mechanism+word(uint32(len(first)))+first), "RR", ""},
			"no data":        {message('p', mechanism+word(1<<32-1)), "RR", ""},
			"-1 with data":   {message('p', mechanism+word(1<<32-1)+first), "RE", "08P01"},
			"-2":             {message('p', mechanism+word(1<<32-2)), "RE", "08P01"},
			"-2 with data":   {message('p', mechanism+word(1<<32-2)+first), "RE", "08P01"},
			"2^31-1":         {message('p', mechanism+word(1<<31-1)+first), "RE", "08P01"},
			"one more":       {message('p', mechanism+word(uint32(len(first)+1))+first), "RE", "08P01"},
			"one less":       {message('p', mechanism+word(uint32(len(first)-1))+first), "RE", "08P01"},
			"no length":      {message('p', mechanism), "RE", "08P01"},
			"no end of name": {message('p', "SCRAM-SHA-256"), "RE", "08P01"},
			"other name":     {message('p', "PLAIN\x00"+word(0)), "RE", "08P01"},
			"empty":          {message('p', ""), "RE", "08P01"},
			"1020 bytes":     {message('p', padded(1020)), "RR", ""}, // the most that a server takes
			"1021 bytes":     {message('p', padded(1021)), "RE", "28P01"},
			"2^16 bytes":     {message('p', padded(1<<16)), "RE", "08P01"},
			"header alone":   {header('p', 1<<30), "RE", "08P01"},
			"length 3":       {header('p', 3), "RE", "08P01"},
			"another type":   {message('Q', "SELECT 1\x00"), "RE", "08P01"},
			"goodbye":        {message('X', ""), "RE", "08P01"},
		} {
			t.Run(fmt.Sprintf("PostgreSQL %d/%s", version, name), func(t *testing.T) {
				c := p.dialTLS(t)
				c.say(asApp("app"), test.sent)
				c.closeWrite()
				got := c.rest()
				if types := messageTypes(t, got); types != test.want || !strings.Contains(string(got), test.code) {
					t.Errorf("the program sent %q, want %q %s", got, test.want, test.code)
				}
			})
		}
		connect(t, p.dsn("app"))
	}
}

// pgproto3 before SetMaxBodyLen, CVE-2026-33815: headers that announce a gigabyte, from clients without a login.
func TestAttackHugeMessagesBeforeLogin(t *testing.T) {
	const clients = 200
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], func(s *fakeSession) {
		s.say(askForSCRAM)
		s.hold()
	})
	p := serveFake(t, f)
	for name, sent := range map[string]struct{ opening, then string }{
		"startup packets": {"", word(1<<30) + word(protocol3) + "user\x00"},
		"passwords":       {asApp("app"), header('p', 1<<30) + "SCRAM-SHA-256\x00"},
		"long passwords":  {asApp("app"), header('p', 65535) + "SCRAM-SHA-256\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			resident, virtual := p.memory(t, "VmHWM"), p.memory(t, "VmPeak")
			var all []*rawClient
			for range clients {
				c := p.dialTLS(t)
				if sent.opening != "" {
					c.say(sent.opening)
					if _, err := io.ReadFull(c, make([]byte, len(askForSCRAM))); err != nil {
						t.Fatal(err)
					}
				}
				c.say(sent.then)
				all = append(all, c)
			}
			for _, c := range all {
				c.closeWrite()
				_ = c.rest()
			}
			resident, virtual = p.memory(t, "VmHWM")-resident, p.memory(t, "VmPeak")-virtual
			if resident > 200<<20 || virtual > 1<<30 {
				t.Errorf("memory grew by %d MiB, %d MiB virtual", resident>>20, virtual>>20)
			}
		})
	}
}

// memory returns a size from the program's status (proc_pid_status(5)) in bytes.
func (p *program) memory(t *testing.T, name string) int {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), name+":")
	kilobytes, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

// Slowloris: a client that keeps sending, but too little, does not outlive login_timeout.
func TestAttackSlowClients(t *testing.T) {
	p := serve(t, "login_timeout = \"1s\"\n"+listenHCL+clusterHCL(sharedCluster(t, versions[0])))
	packet := asApp(strings.Repeat("x", 5000))
	for name, test := range map[string]struct {
		dial func(*testing.T) *rawClient
		sent string
	}{
		"startup":            {p.dialRaw, packet},
		"TLS":                {p.dialRaw, sslRequest + "\x16\x03\x01\x40\x00" + packet}, // a record longer than that
		"startup inside TLS": {p.dialTLS, packet},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := test.dial(t)
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				_, _ = io.Copy(io.Discard, c)
			}()
			for i := range len(test.sent) {
				select {
				case <-closed:
					return
				case <-time.After(10 * time.Millisecond):
					_, _ = c.Write([]byte{test.sent[i]})
				}
			}
			t.Error("the program read the packet to its end")
		})
	}
}

// PgBouncer CVE-2012-4575: names of databases that nobody has. They end the session that asks for them and nothing else,
// and break no line of the log.
func TestAttackDatabaseNames(t *testing.T) {
	binaryName := make([]byte, 255)
	for i := range binaryName {
		binaryName[i] = byte(i + 1)
	}
	p := serve(t, listenHCL+clusterHCL(sharedCluster(t, versions[0])))
	config, err := pgconn.ParseConfig(p.dsn("app"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"nowhere", "_replica", "app_replica_replica", "app_REPLICA", " app", "app ", "%s%n%d", "../../etc/passwd", "'; --", `"`,
		"a\nlevel=ERROR msg=forged", "\x1b[2J", "\u202e", "template0_replica", string(binaryName), string(binaryName) + "_replica",
		strings.Repeat("x", 64), strings.Repeat("x", 9900), strings.Repeat("_replica", 1200),
	} {
		config.Database = name
		conn, err := pgconn.ConnectConfig(testContext(t), config)
		if err == nil {
			_ = conn.Close(testContext(t))
			t.Errorf("database %.80q was found", name)
			continue
		}
		if name == "template0_replica" {
			checkState(t, err, "55000") // is not currently accepting connections
			continue
		}
		checkState(t, err, "3D000")
	}
	connect(t, p.dsn("app"))
	for line := range strings.Lines(p.log()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("broken line in the log: %q", line)
		}
	}
}

// PgBouncer CVE-2025-12819: neither a client's search_path nor that of the monitor's own role leads the monitor's query to
// functions that somebody else made.
func TestAttackSearchPath(t *testing.T) {
	c := sharedCluster(t, versions[0])
	primary, ctx := c.Servers()[0], testContext(t)
	for _, sql := range []string{
		"CREATE SCHEMA evil", "GRANT USAGE ON SCHEMA evil TO public",
		"CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
		"CREATE FUNCTION evil.pg_control_system(OUT system_identifier bigint) LANGUAGE sql AS 'SELECT 1::bigint'",
		"ALTER ROLE " + monitorUser + " IN DATABASE postgres SET search_path = evil, pg_catalog",
	} {
		if err := primary.Exec(ctx, "postgres", sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, sql := range []string{"ALTER ROLE " + monitorUser + " IN DATABASE postgres RESET ALL", "DROP SCHEMA evil CASCADE"} {
			if err := primary.Exec(testContext(t), "postgres", sql); err != nil {
				t.Error(err)
			}
		}
	})
	for _, standby := range c.Servers()[1:] {
		if err := standby.WaitReplay(ctx, primary); err != nil {
			t.Fatal(err)
		}
	}
	p := serve(t, listenHCL+clusterHCL(c))
	dsn := p.dsn("postgres") + "&options=-csearch_path%3Devil,pg_catalog"
	if got := query(t, dsn, "SELECT pg_is_in_recovery(), pg_catalog.pg_is_in_recovery()"); got != "t|f" {
		t.Errorf("on the primary the functions answer %q, want t|f: the other one first", got)
	}
	if got := query(t, p.dsn("postgres_replica"), "SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("on a standby the function answers %q, want t", got)
	}
}

// Default libpq (sslmode=prefer) tries once more in the clear when a login over TLS fails. It must not get in there: that
// would be all that somebody on the way needs.
func TestAttackFallbackToPlaintext(t *testing.T) {
	for _, version := range versions {
		c := sharedCluster(t, version)
		p := serve(t, listenHCL+clusterHCL(c, legs[1].hcl(t)...)) // where channel binding breaks every login by default
		for library, libDir := range libpqs(t) {
			for name, dsn := range map[string]string{
				"binding broken": p.dsn("app", "sslmode=prefer"),
				"wrong password": asUser(p.dsn("app", "sslmode=prefer", "channel_binding=disable"), appUser, "wrong"),
				"allow":          asUser(p.dsn("app", "sslmode=allow", "channel_binding=disable"), appUser, "wrong"),
				"disable":        p.dsn("app", "sslmode=disable"),
			} {
				t.Run(fmt.Sprintf("PostgreSQL %d/%s/%s", version, library, name), func(t *testing.T) {
					out, stderr, err := psql(t, libDir, dsn, "-c", "SELECT 'served'")
					if err == nil || out != "" {
						t.Errorf("psql got a session: %q", out)
					}
					if name != "wrong password" && !strings.Contains(stderr, "connection requires TLS") {
						t.Errorf("psql prints %q, want also that a connection in the clear was refused", stderr)
					}
				})
			}
		}
		t.Run(fmt.Sprintf("PostgreSQL %d/pgx", version), func(t *testing.T) {
			conn, err := pgconn.Connect(testContext(t), p.dsn("app", "sslmode=prefer"))
			if err == nil {
				_ = conn.Close(testContext(t))
				t.Error("pgx got a session")
			}
		})
		if got := strings.Count(p.log(), `"session opened"`); got != 0 {
			t.Errorf("%d sessions were opened, want none", got)
		}
	}
}
