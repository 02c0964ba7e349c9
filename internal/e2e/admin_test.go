package e2e

import (
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// get returns what the admin listener answers.
func get(t *testing.T, address string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(testContext(t), "GET", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", address, resp.Status, err, text)
	}
	http.DefaultClient.CloseIdleConnections()
	return string(text)
}

// promtool is the checker of Prometheus. Where there is none the test is skipped, but fails where PGREPLICAPROXY_E2E says that
// all tests must run.
func promtool(t *testing.T) string {
	t.Helper()
	fetched, err := filepath.Abs("drivers/promtool") // by install.sh
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"promtool", fetched} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
		t.Fatal("no promtool: internal/e2e/install.sh fetches it")
	}
	t.Skip("no promtool")
	return ""
}

// The alerts are rules that Prometheus takes.
func TestAlertRules(t *testing.T) {
	out, err := exec.CommandContext(testContext(t), promtool(t), "check", "rules", "../../packaging/prometheus-alerts.yml").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "SUCCESS") {
		t.Errorf("%v: %s", err, out)
	}
}

// What clients do shows in the metrics, in a form that Prometheus has nothing to say against.
func TestMetrics(t *testing.T) {
	checker := promtool(t)
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+adminHCL+clusterHCL(c))
	primary, replica := connect(t, p.dsn("app")), connect(t, p.dsn("app_replica"))
	ask(t, primary, "SELECT repeat('x', 100000)")
	if err := primary.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	p.waitLog("session closed", nil)
	wrong := strings.Replace(p.dsn("app"), appPassword, "wrong", 1)
	if _, _, err := psql(t, "", wrong, "-c", "SELECT 1"); err == nil {
		t.Error("a wrong password was let in")
	}
	p.waitLog("session refused by server", nil)
	mark := ask(t, replica, "SELECT 'still there'")

	text := get(t, p.admin()+"/metrics")
	for _, want := range []string{
		`pgreplicaproxy_sessions{backend="db1",cluster="main",role="primary",route="*"} 0`,
		`pgreplicaproxy_sessions_opened_total{backend="db1",cluster="main",role="primary",route="*"} 1`,
		`pgreplicaproxy_sessions_closed_total{backend="db1",cause="client_closed",cluster="main",role="primary",route="*"} 1`,
		`pgreplicaproxy_refusals_total{cluster="main",reason="password"} 1`,
		`pgreplicaproxy_login_duration_seconds_count{cluster="main",mode="relay"} 2`,
		`pgreplicaproxy_backend_role{backend="db1",cluster="main",role="primary"} 1`,
		`pgreplicaproxy_backend_role{backend="db2",cluster="main",role="replica"} 1`,
		`pgreplicaproxy_cluster_conflict{cluster="main"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	number := func(form string) float64 {
		found := regexp.MustCompile(`(?m)^pgreplicaproxy_` + form + ` (\S+)$`).FindStringSubmatch(text)
		if found == nil {
			t.Errorf("no metric %s", form)
			return 0
		}
		n, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	if n := number(`session_bytes_total{backend="db1",cluster="main",direction="to_client",role="primary",route="\*"}`); n < 100000 {
		t.Errorf("%v bytes to the client of the primary, want all of its answer", n)
	}
	// The session on the replica is not over, and counted all the same.
	if n := number(`session_bytes_total{backend="db[23]",cluster="main",direction="to_client",role="replica",route="\*_replica"}`); n < float64(len(mark)) {
		t.Errorf("%v bytes to the client of the replica", n)
	}
	if n := number(`handshakes_total{result="client",version="TLS 1.3"}`); n < 3 {
		t.Errorf("%v handshakes", n)
	}
	if t.Failed() {
		t.Log(text)
	}
	lint := exec.CommandContext(testContext(t), checker, "check", "metrics")
	lint.Stdin = strings.NewReader(text)
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// The commands work without an admin block, against the program as it runs.
func TestOperatorCommands(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+clusterHCL(c))
	run := func(code int, args ...string) string {
		t.Helper()
		out, errs, got := command{args: append(args, "-c", filepath.Join(p.dir, "pgreplicaproxy.hcl"))}.run(t)
		if got != code {
			t.Fatalf("%q: exit code %d, want %d: %s%s", args, got, code, out, errs)
		}
		return out + errs
	}
	if got := run(0, "status"); !strings.Contains(got, "db1 is primary, 2 replicas, 0 sessions") {
		t.Errorf("status: %s", got)
	}
	conn := connect(t, p.dsn("app"))
	row := regexp.MustCompile(`(?m)^ *(\d+)  127\.0\.0\.1:\d+ +app +app +db1 +idle `).FindStringSubmatch(run(0, "sessions"))
	if row == nil {
		t.Fatalf("the session is not in the list: %s", run(0, "sessions"))
	}
	run(0, "sessions", "end", row[1])
	checkState(t, <-startQuery(testContext(t), conn, "SELECT 1"), "57P01")
	run(1, "sessions", "end", row[1])

	// A drained server loses its idle sessions and gets none.
	idle := connect(t, p.dsn("app"))
	if got := run(0, "drain", "--wait", "db1"); !strings.Contains(got, "0 sessions left on db1") {
		t.Errorf("drain: %s", got)
	}
	checkState(t, <-startQuery(testContext(t), idle, "SELECT 1"), "57P01")
	if got := run(0, "status"); !strings.Contains(got, "up, out of service") {
		t.Errorf("status: %s", got)
	}
	run(0, "undrain", "db1")
	if got := query(t, p.dsn("app"), "SELECT pg_is_in_recovery()"); got != "f" {
		t.Errorf("after undrain: got %s", got)
	}
	run(1, "drain", "db9")
	state := filepath.Join(p.dir, "state")
	for _, name := range []string{"admin.sock", "admin.token"} {
		if info, err := os.Stat(filepath.Join(state, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want it for its user alone", name, info, err)
		}
	}
	p.stop()
	if got := run(1, "status"); !strings.Contains(got, "nobody listens at") {
		t.Errorf("status of a program that is gone: %s", got)
	}
}

// status --watch goes on until it is told to stop.
func TestStatusWatch(t *testing.T) {
	c := sharedCluster(t, versions[0])
	p := serve(t, listenHCL+clusterHCL(c))
	cmd := exec.CommandContext(testContext(t), binary, "status", "--watch", "-c", filepath.Join(p.dir, "pgreplicaproxy.hcl"))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string)
	go func() {
		text := ""
		buf := make([]byte, 4096)
		for n := 0; strings.Count(text, "db1 is primary") < 2; {
			if n, err = out.Read(buf); err != nil {
				break
			}
			text += string(buf[:n])
		}
		seen <- text
	}()
	select {
	case text := <-seen:
		if strings.Count(text, "db1 is primary") < 2 || strings.Contains(text, "\x1b") {
			t.Errorf("got %q", text)
		}
	case <-time.After(patience):
		t.Error("it did not show the status twice")
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Connections to the admin listener are bounded, so that nobody takes the descriptors there that clients need.
func TestAdminConnectionsAreBounded(t *testing.T) {
	p := serve(t, listenHCL+adminHCL+clusterHCL(sharedCluster(t, versions[0])))
	p.addr = strings.TrimPrefix(p.admin(), "http://")
	first := p.dialRaw(t)
	const more = 255 // of one network
	for range more {
		p.dialRaw(t)
	}
	if got := p.dialRaw(t).rest(); len(got) > 0 {
		t.Errorf("beyond the bound: the program sent %q", got)
	}
	first.say("GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
	if got := string(first.rest()); !strings.HasPrefix(got, "HTTP/1.0 200 OK") {
		t.Errorf("the first connection got %q", got)
	}
}

// A login that is under way on a server that is drained comes to its end before the session is asked to move on.
func TestDrainLetsLoginsEnd(t *testing.T) {
	drained := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(drained) })
	defer goOn()
	f := startFake(t, sharedCluster(t, versions[0]).Servers()[0], func(s *fakeSession) {
		s.say(authOK)
		<-drained
		s.say(keyData, readyForQuery)
		s.hold()
	})
	p := serveFake(t, f, trustHCL...)
	c := p.dialTLS(t)
	c.say(asApp("app"))
	accepted := make([]byte, len(authOK))
	if _, err := io.ReadFull(c, accepted); err != nil || string(accepted) != authOK {
		t.Fatalf("the program sent %q, %v, want AuthenticationOk", accepted, err)
	}
	drain := command{args: []string{"drain", "db1", "-c", filepath.Join(p.dir, "pgreplicaproxy.hcl")}}
	_, errs, code := drain.run(t)
	goOn()
	if code != 0 {
		t.Fatalf("drain: exit code %d: %s", code, errs)
	}
	rest := c.rest()
	if types := messageTypes(t, rest); types != "KZE" || !strings.Contains(string(rest), "57P01") {
		t.Errorf("then the program sent %q, want the server's end of the login, and 57P01", rest)
	}
}
