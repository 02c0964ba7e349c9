package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// CVE-2024-27304 and its like: lengths that no message can have end a session, in either direction, before the bytes that
// follow can be taken for messages.
func TestAttackLengthsInSession(t *testing.T) {
	primary := sharedCluster(t, versions[0]).Servers()[0]
	for _, length := range []uint32{0, 1, 2, 3, 1<<30 + 1<<29, 1 << 31, 1<<32 - 1} {
		broken := header('D', length) + message('Q', "DROP TABLE t\x00")
		t.Run(fmt.Sprintf("from the server/%d", length), func(t *testing.T) {
			f := startFake(t, primary, func(s *fakeSession) {
				s.say(authOK, keyData, readyForQuery)
				s.next()
				s.say(broken)
				s.hold()
			})
			c := serveFake(t, f, trustHCL...).dialTLS(t)
			c.say(asApp("app"), message('Q', "SELECT 1\x00"))
			want := authOK + keyData + readyForQuery
			if got := string(c.rest()); got != want {
				t.Errorf("the client got %q, want %q", got, want)
			}
		})
		t.Run(fmt.Sprintf("from the client/%d", length), func(t *testing.T) {
			received := make(chan []byte, 1)
			f := startFake(t, primary, func(s *fakeSession) {
				s.say(authOK, keyData, readyForQuery)
				all, _ := io.ReadAll(s)
				received <- all
			})
			c := serveFake(t, f, trustHCL...).dialTLS(t)
			c.say(asApp("app"))
			if _, err := io.ReadFull(c, make([]byte, len(authOK+keyData+readyForQuery))); err != nil {
				t.Fatal(err)
			}
			c.say(broken)
			if got := c.rest(); len(got) > 0 {
				t.Errorf("the client got %q", got)
			}
			if got := <-received; len(got) > 0 {
				t.Errorf("the server got %q, want nothing", got)
			}
		})
	}
}

// A server that ends in the middle of a row: the client gets what there was of it, byte by byte, and then an end that no
// driver takes for a result.
func TestAttackEndInsideRow(t *testing.T) {
	description := message('T', "\x00\x01v\x00"+word(0)+"\x00\x00"+word(25)+"\xff\xff"+word(1<<32-1)+"\x00\x00")
	row := message('D', "\x00\x01"+word(5)+"whole")
	for name, answer := range map[string]string{
		"in a header": description + row + row[:3],
		"in a body":   description + row + row[:10],
		"in between":  description + row,
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], func(s *fakeSession) {
				s.say(authOK, message('S', "client_encoding\x00UTF8\x00"), keyData, readyForQuery)
				s.next()
				s.say(answer)
			})
			p := serveFake(t, f, trustHCL...)
			c := p.dialTLS(t)
			c.say(asApp("app"), message('Q', "SELECT v FROM t\x00"))
			if got := string(c.rest()); !strings.HasSuffix(got, readyForQuery+answer) {
				t.Errorf("the client got %q, want %q and nothing behind it", got, answer)
			}
			conn := connect(t, p.dsn("app"))
			if _, err := conn.Exec(testContext(t), "SELECT v FROM t").ReadAll(); err == nil {
				t.Error("pgx took it for a result")
			}
			out, stderr, err := psql(t, "", p.dsn("app"), "-c", "SELECT v FROM t")
			if err == nil || out != "" || !strings.Contains(stderr, "unexpectedly") {
				t.Errorf("psql printed %q, %q, %v", out, stderr, err)
			}
		})
	}
}

// A server that falls silent: before it has answered the startup packet the session goes to the next one, after that, or
// without another one, it ends by login_timeout.
func TestAttackSilentServer(t *testing.T) {
	c := sharedCluster(t, versions[0])
	silence := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for _, test := range []struct {
		name string
		lie  func(f *fakeServer)
	}{
		{"after accept", func(f *fakeServer) { f.setAmbush(silence) }},
		{"after SSLRequest", func(f *fakeServer) {
			f.setAmbush(func(conn net.Conn) {
				if _, err := io.ReadFull(conn, make([]byte, len(sslRequest))); err == nil {
					silence(conn)
				}
			})
		}},
		{"in the handshake", func(f *fakeServer) {
			f.setAmbush(func(conn net.Conn) {
				_, _ = io.WriteString(conn, "S")
				silence(conn)
			})
		}},
		{"after startup", func(*fakeServer) {}},
	} {
		t.Run(test.name+"/another server", func(t *testing.T) {
			t.Parallel()
			f := startFakeTLS(t, c.Servers()[1], (*fakeSession).hold)
			p := serve(t, listenHCL+backendsHCL(overTLSLeg(t),
				backend{"silent", f.address, 1_000_000}, backend{"db3", serverAddress(c.Servers()[2]), 1}))
			test.lie(f)
			conn := connect(t, p.dsn("app_replica")+"&channel_binding=disable")
			if err := conn.Ping(testContext(t)); err != nil {
				t.Error(err)
			}
			if f.sessions.Load()+f.ambushed.Load() == 0 {
				t.Error("the silent server was not tried")
			}
		})
		t.Run(test.name+"/alone", func(t *testing.T) {
			t.Parallel()
			f := startFakeTLS(t, c.Servers()[1], (*fakeSession).hold)
			p := serve(t, "login_timeout = \"1s\"\n"+listenHCL+backendsHCL(overTLSLeg(t), backend{"silent", f.address, 1}))
			test.lie(f)
			told := connectError(t, p.dsn("app_replica")+"&channel_binding=disable")
			if told.Code != "57P03" || told.Message != "login took too long" {
				t.Errorf("the client is told %v", told)
			}
		})
	}
	t.Run("in authentication", func(t *testing.T) {
		t.Parallel()
		f := startFake(t, c.Servers()[1], func(s *fakeSession) { s.say(askForSCRAM); s.hold() })
		p := serve(t, "login_timeout = \"1s\"\n"+listenHCL+backendsHCL(nil,
			backend{"silent", f.address, 1_000_000}, backend{"db3", serverAddress(c.Servers()[2]), 1}))
		told := connectError(t, p.dsn("app_replica"))
		if told.Code != "57P03" || told.Message != "login took too long" {
			t.Errorf("the client is told %v", told)
		}
	})
	t.Run("the other one refuses", func(t *testing.T) { // which login_timeout has nothing to do with
		t.Parallel()
		f := startFake(t, c.Servers()[1], (*fakeSession).hold)
		refusing := startFake(t, c.Servers()[2], func(*fakeSession) {})
		p := serve(t, listenHCL+backendsHCL(nil, backend{"silent", f.address, 1_000_000}, backend{"db3", refusing.address, 1}))
		refusal{
			"57P03", `no replica of cluster "main" could be reached`, "Tried: [silent db3].",
			"Retry in a few seconds; the log of pgreplicaproxy says why.",
		}.check(t, connectError(t, p.dsn("app_replica")))
	})
}
