package discovery

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

var pattern = backends.Target{Cluster: "main", Network: "tcp", TLS: backends.TLSRequire, Weight: 1}

// summary is what was found in few words: each server with its address and weight, and the leader.
func summary(f Found) string {
	var words []string
	for _, t := range f.Targets {
		words = append(words, fmt.Sprintf("%s=%s*%d", t.Name, t.Address, t.Weight))
	}
	return strings.Join(append(words, "leader="+f.Leader+"@"+f.LeaderAddress), " ")
}

// What members say, and what becomes of them.
func TestParseMembers(t *testing.T) {
	member := func(name, role, state, more string) string {
		return fmt.Sprintf(`{"name": %q, "role": %q, "state": %q, "host": "10.0.0.1", "port": 5432%s}`, name, role, state, more)
	}
	for _, c := range []struct{ name, body, want string }{
		{
			"leader and standbys", member("b", "replica", "streaming", "") + "," + member("a", "leader", "running", "") + "," + member("c", "sync_standby", "running", ""),
			"a=10.0.0.1:5432*1 b=10.0.0.1:5432*1 c=10.0.0.1:5432*1 leader=a@10.0.0.1:5432",
		},
		{
			"not running", member("a", "replica", "stopped", "") + "," + member("b", "replica", "creating replica", "") + "," + member("c", "replica", "starting", ""),
			"a=10.0.0.1:5432*0 b=10.0.0.1:5432*0 c=10.0.0.1:5432*0 leader=@",
		},
		{
			"not for load balancing", member("a", "replica", "running", `, "tags": {"noloadbalance": true, "clonefrom": true}`),
			"a=10.0.0.1:5432*0 leader=@",
		},
		{"but it leads", member("a", "leader", "running", `, "tags": {"noloadbalance": true}`), "a=10.0.0.1:5432*1 leader=a@10.0.0.1:5432"},
		{"a cluster of standbys", member("a", "standby_leader", "running", ""), "a=10.0.0.1:5432*1 leader=@"},
		{"an old version", member("a", "master", "running", ""), "a=10.0.0.1:5432*1 leader=a@10.0.0.1:5432"},
		{"port as text", `{"name": "a", "state": "running", "host": "::1", "port": "5433"}`, "a=[::1]:5433*1 leader=@"},
		{"no address yet", member("a", "replica", "running", "") + `,{"name": "b", "role": "replica", "state": "starting"}`, "a=10.0.0.1:5432*1 leader=@"},
		{"a strange name", member("a b/c\n", "replica", "running", ""), "a-b-c=10.0.0.1:5432*1 leader=@"},
		{"a name twice", member("a", "replica", "running", "") + "," + member("a", "leader", "running", ""), "a=10.0.0.1:5432*1 leader=@"},
	} {
		found, err := parseMembers([]byte(`{"members": [`+c.body+`], "scope": "main", "new": {"field": 1}}`), pattern)
		if got := summary(found); err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, got, err, c.want)
		}
		for _, target := range found.Targets {
			if target.TLS != backends.TLSRequire || target.Cluster != "main" {
				t.Errorf("%s: %+v is not like the pattern", c.name, target)
			}
		}
	}
}

// Whatever else is answered is an error and no empty cluster.
func TestParseMembersRefuses(t *testing.T) {
	many := strings.Repeat(`{"name": "a", "host": "h", "port": 1},`, maxServers) + `{"name": "b", "host": "h", "port": 1}`
	for _, body := range []string{
		``, `[]`, `{}`, `null`, `{"members": null}`, `{"members": [{}]}`, `{"members": [{"name": "a", "host": "h", "port": 0}]}`,
		`{"members": [{"name": "a", "host": "h", "port": 65536}]}`, `{"members": [{"name": "a", "host": "h b", "port": 1}]}`,
		`{"members": [{"name": "--", "host": "h", "port": 1}]}`, `{"members": [{"name": "a", "host": "h", "port": {}}]}`,
		`{"members": [` + many + `]}`, `<html>`,
	} {
		if found, err := parseMembers([]byte(body), pattern); err == nil {
			t.Errorf("%.80s: found %s", body, summary(found))
		}
	}
}

func FuzzParseMembers(f *testing.F) {
	real, err := os.ReadFile("testdata/cluster.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(real)
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := parseMembers(body, pattern)
		if (err == nil) != (len(found.Targets) > 0) {
			t.Errorf("%d servers, %v", len(found.Targets), err)
		}
	})
}

// The answer of the real Patroni, as the end-to-end test has seen it.
func TestParseRealAnswer(t *testing.T) {
	real, err := os.ReadFile("testdata/cluster.json")
	if err != nil {
		t.Fatal(err)
	}
	found, err := parseMembers(real, pattern)
	const want = "node1=127.0.0.1:15431*1 node2=127.0.0.1:15432*1 node3=127.0.0.1:15433*0 leader=node1@127.0.0.1:15431"
	if got := summary(found); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

const oneMember = `{"members": [{"name": "a", "role": "leader", "state": "running", "host": "10.0.0.1", "port": 5432}]}`

// rest serves GET /cluster.
func rest(t *testing.T, serve http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cluster", serve)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// Any URL that answers will do, and the next question begins there.
func TestPatroniURLs(t *testing.T) {
	var asked atomic.Int64
	good := rest(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(oneMember)) })
	bad := map[string]http.HandlerFunc{
		"status":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, oneMember, http.StatusServiceUnavailable) },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, good+"/cluster", http.StatusFound) },
		"too much": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(oneMember + strings.Repeat(" ", maxAnswer)))
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
	}
	for name, handler := range bad {
		asked.Store(0)
		url := rest(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			handler(w, r)
		})
		p := newPatroniSource(Patroni{URLs: []string{url, good + "/"}, Target: pattern}, "main")
		for range 3 {
			if found, err := p.ask(t.Context()); err != nil || found.Leader != "a" {
				t.Errorf("%s: found %s, %v", name, summary(found), err)
			}
		}
		if asked.Load() != 1 {
			t.Errorf("%s: asked %d times, want once", name, asked.Load())
		}
		alone := newPatroniSource(Patroni{URLs: []string{url}, Target: pattern}, "main")
		if found, err := alone.ask(t.Context()); err == nil || !strings.Contains(err.Error(), url) {
			t.Errorf("%s: found %s, %v", name, summary(found), err)
		}
	}
}

// When Patroni is gone its members stay, and its word on who leads does not.
func TestPatroniGone(t *testing.T) {
	var gone atomic.Bool
	url := rest(t, func(w http.ResponseWriter, _ *http.Request) {
		if gone.Load() {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write([]byte(oneMember))
	})
	_, found, log := run(t, Config{Cluster: "main", Patroni: &Patroni{URLs: []string{url}, Interval: 10 * time.Millisecond, Target: pattern}})
	found.await(t, "10.0.0.1:5432")
	if f, _ := found.last(); f.Leader != "a" || f.LeaderAddress != "10.0.0.1:5432" {
		t.Errorf("found %s", summary(f))
	}
	gone.Store(true)
	for over := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		f, _ := found.last()
		if !slices.Equal(addresses(f), []string{"10.0.0.1:5432"}) || time.Now().After(over) {
			t.Fatalf("found %s", summary(f))
		}
		if f.Leader == "" && f.LeaderAddress == "" {
			break
		}
	}
	gone.Store(false)
	for log.count("servers looked up again") == 0 {
		<-found.more
	}
}

// With servers of its own the configuration wants Patroni's word only.
func TestPatroniLeaderOnly(t *testing.T) {
	url := rest(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(oneMember)) })
	p := newPatroniSource(Patroni{URLs: []string{url}, LeaderOnly: true}, "main")
	if found, err := p.ask(t.Context()); err != nil || summary(found) != "leader=a@10.0.0.1:5432" {
		t.Errorf("found %s, %v", summary(found), err)
	}
}

// A Patroni that is asked in another way, and does not answer, has the members that it had.
func TestPatroniInherits(t *testing.T) {
	before, err := parseMembers([]byte(`{"members": [
		{"name": "a", "role": "replica", "state": "running", "host": "10.0.0.1", "port": 1},
		{"name": "b", "role": "replica", "state": "stopped", "host": "10.0.0.2", "port": 1}]}`), pattern)
	if err != nil {
		t.Fatal(err)
	}
	changed := pattern
	changed.TLS = backends.TLSVerifyFull
	got := newPatroniSource(Patroni{Target: changed}, "main").inherit(before)
	if summary(got) != "a=10.0.0.1:1*1 b=10.0.0.2:1*0 leader=@" || got.Targets[0].TLS != backends.TLSVerifyFull {
		t.Errorf("got %+v", got)
	}
}
