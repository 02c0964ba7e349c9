package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds every wait of these tests; it is never what a test measures.
const patience = time.Minute

// The tests start this program again, as one that is given sockets. What it does then stands in an environment variable.
const behaviourVariable = "HANDOVER_TEST_BEHAVIOUR"

func TestMain(m *testing.M) {
	behave, ok := behaviours[os.Getenv(behaviourVariable)]
	if !ok {
		goleak.VerifyTestMain(m)
		return
	}
	if err := behave(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

var behaviours = map[string]func() error{
	"serve": func() error {
		sockets, predecessor, err := Inherit()
		if err != nil {
			return err
		}
		if predecessor.Note != "note" {
			return fmt.Errorf("note is %q", predecessor.Note)
		}
		if again, ok := os.LookupEnv(successorVariable); ok {
			return errors.New("left in the environment: " + again)
		}
		first, second := sockets.Take(addresses[0]), sockets.Take(addresses[1])
		if first == nil || second == nil || sockets.Take(addresses[0]) != nil {
			return errors.New("not every socket once")
		}
		if err := predecessor.Ready(); err != nil {
			return err
		}
		err = errors.Join(greet(second), greet(first)) // only then has the test closed its own
		sockets.Keep()
		return errors.Join(err, first.Close(), second.Close())
	},
	"crash": func() error { return errors.New("too early") },
	"fail": func() error {
		sockets, _, err := Inherit()
		if err != nil {
			return err
		}
		_ = sockets.Take(addresses[1]).Close() // as a program would that gives up
		return errors.New("no luck")
	},
	"hang": func() error {
		if _, _, err := Inherit(); err != nil {
			return err
		}
		_, _ = os.Stdin.Read(make([]byte, 1))
		select {}
	},
	"activated": func() error {
		sockets, predecessor, err := Inherit()
		if err != nil || predecessor != nil {
			return fmt.Errorf("predecessor %v, %w", predecessor, err)
		}
		if os.Getenv("LISTEN_FDS") != "" {
			return errors.New("LISTEN_FDS is left in the environment")
		}
		if ln := sockets.Take(Address{Network: "unix", Address: os.Getenv("TEST_PATH")}); ln != nil {
			if err := greet(ln); err != nil {
				return err
			}
			_ = ln.Close() // leaves the file, which is systemd's
		}
		return sockets.Unused()
	},
}

// addresses are names for the sockets of the tests, as a configuration has them.
var addresses = []Address{{"tcp", ":0", 0}, {"unix", "/run/.s.PGSQL.7432", 0}, {"tcp", ":0", 1}}

// greet takes one connection and tells it who serves it.
func greet(ln net.Listener) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(conn, os.Getpid())
	return errors.Join(err, conn.Close())
}

// greeting returns who serves a socket.
func greeting(t *testing.T, addr net.Addr) string {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// listeners opens the sockets of a predecessor.
func listeners(t *testing.T) Successor {
	t.Helper()
	s := Successor{Listeners: make(map[Address]net.Listener), Note: "note"}
	for i, address := range addresses {
		where := "127.0.0.1:0"
		if address.Network == "unix" {
			where = filepath.Join(t.TempDir(), fmt.Sprint(i))
		}
		ln, err := net.Listen(address.Network, where)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		s.Listeners[address] = ln
	}
	return s
}

// program is this test as a program that behaves in a certain way.
func program(t *testing.T, behaviour string) Program {
	t.Helper()
	p, err := ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, behaviourVariable+"="+behaviour)
	return p
}

func start(t *testing.T, s Successor, behaviour string, timeout time.Duration) (int, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return s.Start(ctx, program(t, behaviour))
}

// Clients find a socket open at every moment: connections wait in its queue while nobody accepts, and who they reach is the
// successor once this process has closed its own.
func TestSuccessorServes(t *testing.T) {
	s := listeners(t)
	pid, err := start(t, s, "serve", patience)
	if err != nil {
		t.Fatal(err)
	}
	s.Release()
	for _, ln := range s.Listeners {
		_ = ln.Close()
	}
	socket := s.Listeners[addresses[1]].Addr()
	for _, addr := range []net.Addr{socket, s.Listeners[addresses[0]].Addr()} {
		if got, want := greeting(t, addr), fmt.Sprint(pid); got != want {
			t.Errorf("process %s answers at %v, want %s", got, addr, want)
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // it ends by itself
		if _, err := os.Stat(socket.String()); errors.Is(err, os.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the socket file of the last owner is left")
		}
	}
	// Nobody took the third: it is closed when the last descriptor is.
	if conn, err := net.Dial("tcp", s.Listeners[addresses[2]].Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("a socket that nobody took is open")
	}
}

// A successor that does not come to be leaves everything as it was.
func TestSuccessorFails(t *testing.T) {
	for _, test := range []struct {
		behaviour string
		timeout   time.Duration
		want      string
	}{
		{"crash", patience, "exit status 3"},
		{"fail", patience, "exit status 3"},
		{"hang", 500 * time.Millisecond, "not ready in time"},
	} {
		t.Run(test.behaviour, func(t *testing.T) {
			s := listeners(t)
			if pid, err := start(t, s, test.behaviour, test.timeout); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got process %d, %v; want %q", pid, err, test.want)
			}
			for _, address := range addresses {
				ln := s.Listeners[address]
				served := make(chan error, 1)
				go func() { served <- greet(ln) }()
				if got, want := greeting(t, ln.Addr()), fmt.Sprint(os.Getpid()); got != want {
					t.Errorf("process %s answers, want %s", got, want)
				}
				if err := <-served; err != nil {
					t.Error(err)
				}
				// A socket that had become blocking would not let go of its Accept.
				go func() { served <- greet(ln) }()
				time.Sleep(10 * time.Millisecond) // for Accept to be called, which is not seen from outside
				go func() { _ = ln.Close() }()    // which waits for Accept
				select {
				case err := <-served:
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
				case <-time.After(patience):
					t.Fatal("Accept does not end with its listener")
				}
			}
		})
	}
}

func TestSuccessorCannotBeStarted(t *testing.T) {
	s := listeners(t)
	p := program(t, "serve")
	p.path = filepath.Join(t.TempDir(), "missing")
	if _, err := s.Start(t.Context(), p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

// systemd's protocol (sd_listen_fds(3)): LISTEN_PID is the process, and descriptors begin with 3.
func TestSocketActivation(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct{ name, path, want string }{
		{"taken", filepath.Join(dir, "taken"), ""},
		{"in no configuration", filepath.Join(dir, "unused"), "no listen block does"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ln, err := net.Listen("unix", test.path)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			socket, err := duplicate(ln)
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			p := program(t, "activated")
			path := test.path
			if test.want != "" {
				path = "/elsewhere"
			}
			// The shell's own process becomes the program: so it can know the number.
			cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0"`, p.path)
			cmd.Env = append(p.env, "LISTEN_FDS=1", "LISTEN_FDNAMES=x", "TEST_PATH="+path)
			cmd.ExtraFiles = []*os.File{socket}
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				if got, want := greeting(t, ln.Addr()), fmt.Sprint(cmd.Process.Pid); got != want {
					t.Errorf("process %s answers, want %s", got, want)
				}
			}
			told, _ := io.ReadAll(stderr)
			if err := cmd.Wait(); (err == nil) != (test.want == "") || !strings.Contains(string(told), test.want) {
				t.Errorf("ended with %v, %s; want %q", err, told, test.want)
			}
			if _, err := os.Stat(test.path); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSame(t *testing.T) {
	tcp := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	for _, test := range []struct {
		address Address
		socket  net.Addr
		want    bool
	}{
		{Address{"tcp", ":7432", 0}, tcp("::", 7432), true},
		{Address{"tcp", ":7432", 0}, tcp("0.0.0.0", 7432), true},
		{Address{"tcp", "0.0.0.0:7432", 0}, tcp("::", 7432), true},
		{Address{"tcp", ":7432", 0}, tcp("::", 7433), false},
		{Address{"tcp", ":7432", 0}, tcp("127.0.0.1", 7432), false},
		{Address{"tcp", "127.0.0.1:7432", 0}, tcp("127.0.0.1", 7432), true},
		{Address{"tcp", "127.0.0.1:7432", 0}, tcp("::", 7432), false},
		{Address{"tcp", "[::1]:7432", 0}, tcp("::1", 7432), true},
		{Address{"unix", "/run/a", 0}, &net.UnixAddr{Net: "unix", Name: "/run/a"}, true},
		{Address{"unix", "/run/a", 0}, &net.UnixAddr{Net: "unix", Name: "/run/b"}, false},
		{Address{"unix", "/run/a", 0}, tcp("::", 7432), false},
	} {
		if got := same(test.address, test.socket); got != test.want {
			t.Errorf("same(%v, %v) = %v, want %v", test.address, test.socket, got, test.want)
		}
	}
}
