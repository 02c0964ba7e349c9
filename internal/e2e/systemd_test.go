package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// notifications is systemd's end of its protocol (sd_notify(3)). Like systemd it reads all the time.
type notifications struct {
	t    *testing.T
	got  chan string
	path string
}

func listenNotifications(t *testing.T) *notifications {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	n := &notifications{t, make(chan string, 10_000), path}
	go func() {
		for buf := make([]byte, 4096); ; {
			size, err := conn.Read(buf)
			if err != nil {
				return
			}
			n.got <- string(buf[:size])
		}
	}()
	return n
}

// want reads notifications until one fits, and returns it. Others may come before it, but none that says not.
func (n *notifications) want(form, not string) string {
	n.t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case got := <-n.got:
			if regexp.MustCompile(form).MatchString(got) {
				return got
			}
			if not != "" && strings.Contains(got, not) {
				n.t.Fatalf("got %q before %s", got, form)
			}
		case <-timeout:
			n.t.Fatalf("%s never came", form)
		}
	}
}

// What systemd's Type=notify-reload, WatchdogSec= and TimeoutStopSec= ask of a service.
func TestSystemdNotifications(t *testing.T) {
	c := sharedCluster(t, versions[0])
	systemd := listenNotifications(t)
	p := launchAs(t, "drain_timeout = \"3s\"\n"+listenHCL+clusterHCL(c),
		[]string{"NOTIFY_SOCKET=" + systemd.path, "WATCHDOG_USEC=150000"}, binary, "serve")
	systemd.want(`(?m)^READY=1$`, "STOPPING")
	p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	dsn := p.dsn("app")
	if got := query(t, dsn, "SELECT 1"); got != "1" { // "ready" is true
		t.Errorf("got %q", got)
	}
	systemd.want(`^WATCHDOG=1\n$`, "")
	systemd.want(`^WATCHDOG=1\n$`, "")

	p.signal(syscall.SIGHUP)
	systemd.want(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n$`, "READY")
	systemd.want(`(?m)^READY=1$`, "RELOADING")
	p.write("pgreplicaproxy.hcl", "nonsense = true\n")
	p.signal(syscall.SIGHUP)
	systemd.want(`^RELOADING=1\n`, "READY")
	systemd.want(`(?m)^READY=1$`, "RELOADING") // it is, with the old configuration

	p.configure("drain_timeout = \"3s\"\n" + listenHCL + clusterHCL(c))
	p.upgrade()
	if got, want := systemd.want(`MAINPID`, "STOPPING"), fmt.Sprintf("MAINPID=%d\n", p.process()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	systemd.want(`^WATCHDOG=1\n$`, "STOPPING") // from the new process

	p.signal(syscall.SIGTERM)
	if got, want := systemd.want(`STOPPING`, ""), "EXTEND_TIMEOUT_USEC=13000000\n"; !strings.Contains(got, want) {
		t.Errorf("got %q, want %q in it", got, want)
	}
}

// systemd opens the socket, and starts the program at the first connection, which must be served.
func TestSocketActivation(t *testing.T) {
	c := sharedCluster(t, versions[0])
	for _, test := range []struct{ name, listen string }{
		{"address", "127.0.0.1"},
		{"every interface", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr := closedAddress(t)
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			on := net.JoinHostPort(test.listen, port)
			p := launchAs(t, fmt.Sprintf("listen {\n  address = %q\n}\n", on)+clusterHCL(c), nil,
				"systemd-socket-activate", "--listen="+strings.TrimPrefix(on, ":"), binary, "serve")
			p.addr = addr
			for {
				if conn, err := net.Dial("tcp", addr); err == nil {
					_ = conn.Close()
					break
				}
				time.Sleep(10 * time.Millisecond) // until systemd-socket-activate listens
			}
			if got := query(t, p.dsn("app"), "SELECT 1"); got != "1" {
				t.Errorf("got %q", got)
			}
			p.upgrade()
			if got := query(t, p.dsn("app"), "SELECT 1"); got != "1" {
				t.Errorf("after an upgrade: got %q", got)
			}
		})
	}
}
