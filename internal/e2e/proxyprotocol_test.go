package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// connectAt logs in at an address that leads to the program, as an application with a name.
func (p *program) connectAt(t *testing.T, addr, database string) *pgconn.PgConn {
	t.Helper()
	dsn := strings.Replace(p.dsn(database, "application_name=shop", "sslmode=require", "channel_binding=disable"), p.addr, addr, 1)
	return connect(t, dsn)
}

// show runs a query that returns one value.
func show(t *testing.T, conn *pgconn.PgConn, sql string) string {
	t.Helper()
	results, err := conn.Exec(testContext(t), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return string(results[0].Rows[0][0])
}

// startHAProxy starts HAProxy between a free address, which it returns, and a server, to which it adds options.
func startHAProxy(t *testing.T, server string) string {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/haproxy"); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ln.(*net.TCPListener).File() // handed over, so that nobody takes the port in between
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	defer socket.Close()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n" +
		"listen front\n  bind fd@3\n  server proxy " + server + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-db", "-f", file)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return ln.Addr().String()
}

// Behind HAProxy the client's address is the client's: in the log, and in the server's view by application_name.
func TestProxyProtocolFromHAProxy(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, "listen {\n  address = \"127.0.0.1:0\"\n  proxy_protocol_from = [\"127.0.0.1\"]\n}\n"+
		clusterHCL(c, "client_address_in_application_name = true"))
	for _, option := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(option, func(t *testing.T) {
			// Health checks say LOCAL or UNKNOWN and close.
			front := startHAProxy(t, p.addr+" check inter 100ms "+option)
			conn := p.connectAt(t, front, "app")
			client := conn.Conn().LocalAddr().String()
			if got, want := show(t, conn, "SHOW application_name"), "shop ("+client+")"; got != want {
				t.Errorf("application_name is %q, want %q", got, want)
			}
			p.waitLog("session opened", map[string]any{"client": client})
		})
	}
	if log := p.log(); strings.Contains(log, `"WARN"`) {
		t.Errorf("a healthy run has warnings:\n%s", log)
	}
	p.dialRaw(t).refusedSilently(sslRequest)
	p.waitLog("connection refused", map[string]any{"level": "WARN", "stage": "proxy header"})
}

// refusedSilently sends something and wants the connection closed without an answer.
func (c *rawClient) refusedSilently(sent string) {
	c.t.Helper()
	c.say(sent)
	if got := c.rest(); len(got) > 0 {
		c.t.Errorf("answered with %q, want no answer", got)
	}
}

// One proxy behind another hears who the client is, on sessions and on cancel requests, and of the monitor that it is the
// first proxy's own.
func TestProxyProtocolToAnotherProxy(t *testing.T) {
	c := sharedCluster(t, versions[0])
	inner := serve(t, "listen {\n  address = \"127.0.0.1:0\"\n  proxy_protocol_from = [\"127.0.0.1\"]\n}\n"+
		strings.Replace(clusterHCL(c, "client_address_in_application_name = true"), "monitor {", "monitor {\n    allow_as_client = true", 1))
	outer := serve(t, listenHCL+fmt.Sprintf(`cluster "main" {
  authentication = "relay"
  monitor {
    password = file("monitor.password")
    interval = "200ms"
  }
  backend_tls { mode = "require" }
  backend "inner" {
    address             = %q
    send_proxy_protocol = true
  }
}
`, inner.addr))
	conn := outer.connectAt(t, outer.addr, "app")
	client := conn.Conn().LocalAddr().String()
	if got, want := show(t, conn, "SHOW application_name"), "shop ("+client+")"; got != want {
		t.Errorf("application_name is %q, want %q", got, want)
	}
	ended := startQuery(testContext(t), conn, endless("chained"))
	waitActive(t, c.Servers()[0], "chained")
	if err := conn.CancelRequest(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkState(t, <-ended, "57014")
	entry := inner.waitLog("query cancelled", nil)
	outer.waitLog("query cancelled", map[string]any{"client": entry["client"]})
}
