package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: what the program writes at its end is read at the user's.
type terminal struct{ program, user *os.File }

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	fd := int(user.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &terminal{program: program, user: user}
}

// Where all is well the log holds the servers, the start and the end, and no line for a client, in JSON where nobody looks
// on.
func TestHealthyLogIsSilent(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := launch(t, stateHCL+listenHCL+clusterHCL(c), nil)
	p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	for _, database := range []string{"app", "app_replica"} {
		query(t, p.dsn(database), "SELECT 1")
	}
	conn := connect(t, p.dsn("app"))
	ask(t, conn, "BEGIN; SELECT 1")
	if err := conn.Conn().(*tls.Conn).NetConn().Close(); err != nil { // a client that was killed
		t.Error(err)
	}
	for _, check := range []*rawClient{p.dialRaw(t), p.dialTLS(t)} { // of a load balancer, for instance
		check.closeWrite()
		check.rest()
	}
	p.signal(syscall.SIGTERM)
	p.waitEnd()
	var messages []string
	for line := range strings.Lines(p.log()) {
		var entry struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" {
			t.Errorf("the log has %q, want JSON: %v", line, err)
		}
		messages = append(messages, entry.Level+" "+entry.Msg)
	}
	want := []string{"INFO server changed", "INFO listening", "INFO stopped"}
	messages = slices.Compact(messages)                                                         // each server becomes what it is, the primary by way of the state file
	messages = slices.DeleteFunc(messages, func(m string) bool { return m == "INFO draining" }) // had a session not ended yet
	if !slices.Equal(messages, want) {
		t.Errorf("the log has %q, want %q:\n%s", messages, want, p.log())
	}
}

// What clients write in names reaches no terminal as it is: each of these would retitle it, clear it, forge a line of the
// log or turn the order of letters around.
var hostileNames = []string{
	"\x1b]0;owned\a", "\x1b[2J", "two\r\nlines", "C1 \u009b2J", "byte \x9b2J", "\u202eesrever", `literal \x1b[2J`, "\x7f\b\v",
}

// The log for people, on a terminal and not, has colours of its own and nothing that steers a terminal; passwords are
// in neither.
func TestTextLog(t *testing.T) {
	c := sharedCluster(t, versions[0])
	colours := regexp.MustCompile("\x1b\\[[0-9;]*m")
	address := regexp.MustCompile(`listening.*address=(?:\x1b\[0m)?(\S+)`)
	for _, test := range []struct {
		name, log string
		terminal  bool
	}{
		{"file", "log {\n  level = \"debug\"\n  format = \"text\"\n}\n", false},
		{"terminal", "log {\n  level = \"debug\"\n}\n", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var output *terminal
			if test.terminal {
				output = openTerminal(t)
			}
			p := launch(t, test.log+stateHCL+listenHCL+clusterHCL(c), output)
			p.waitText("listening")
			p.addr = address.FindStringSubmatch(p.log())[1]
			for _, name := range hostileNames {
				client := p.dialTLS(t) // the driver would refuse some of them
				client.say(startup(protocol3, "user", name, "database", name), message('Q', "no password\x00"))
				client.rest()
				client = p.dialTLS(t)
				client.say(startup(protocol3, "user", appUser, "database", "app", "replication", name))
				client.rest()
				client = p.dialRaw(t)
				client.say(sslRequest)
				_ = tls.Client(client, &tls.Config{NextProtos: []string{name}, InsecureSkipVerify: true}).Handshake()
				client.rest()
			}
			connectError(t, asUser(p.dsn("app"), appUser, "mistyped-secret"))
			p.signal(syscall.SIGTERM)
			p.waitEnd()
			if log := p.log(); strings.HasPrefix(log, "{") || colours.MatchString(log) != test.terminal || strings.Contains(log, "mistyped") {
				t.Errorf("terminal %v, log:\n%s", test.terminal, log)
			}
			for line := range strings.Lines(p.log()) {
				line = strings.TrimRight(colours.ReplaceAllString(line, ""), "\r\n")
				steers := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
				if strings.ContainsFunc(line, steers) {
					t.Errorf("a client's bytes are in the log: %q", line)
				}
			}
			if n := strings.Count(p.log(), "two"); n == 0 {
				t.Error("the log says nothing of the clients")
			}
		})
	}
}

// The program goes on when nobody reads its log any more, as servers do.
func TestLogReaderGone(t *testing.T) {
	c := sharedCluster(t, versions[0])
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := launch(t, "log {\n  level = \"debug\"\n}\n"+stateHCL+listenHCL+clusterHCL(c), &terminal{program: writer, user: reader})
	p.addr = fmt.Sprint(p.waitLog("listening", nil)["address"])
	dsn := p.dsn("app")
	session := connect(t, dsn)
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	query(t, dsn, "SELECT 1") // is logged when it ends
	ask(t, session, "SELECT 1")
	query(t, dsn, "SELECT 2")
}
