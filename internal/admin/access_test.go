package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/events"
	"github.com/replicon/pgreplicaproxy/policy"
)

const testToken = "the token of this test"

// answer asks a handler made of c.
func answer(c Config, r *http.Request) *httptest.ResponseRecorder {
	if c.Snapshots == nil {
		c.Snapshots = snapshots(policy.Backend{Name: "db1", Role: policy.Primary, Weight: 1})
	}
	c.Token = testToken
	w := httptest.NewRecorder()
	Handler(c).ServeHTTP(w, r)
	return w
}

func withToken(r *http.Request, token string) *http.Request {
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// Who may read what, by the listener and by what the client brings.
func TestReading(t *testing.T) {
	verified := func(r *http.Request) *http.Request {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
		return r
	}
	plainTLS := func(r *http.Request) *http.Request {
		r.TLS = &tls.ConnectionState{}
		return r
	}
	get := func(path string) *http.Request { return request("GET", path) }
	for _, tc := range []struct {
		name    string
		local   bool
		request *http.Request
		want    int
	}{
		{"local, nothing", true, get("/status"), 200},
		{"local page", true, get("/"), 200},
		{"elsewhere, nothing", false, plainTLS(get("/status")), 401},
		{"elsewhere, page", false, plainTLS(get("/")), 401},
		{"elsewhere, metrics", false, plainTLS(get("/metrics")), 401},
		{"elsewhere, events", false, plainTLS(get("/events")), 401},
		{"elsewhere, profiles", false, plainTLS(get("/debug/pprof/cmdline")), 401},
		{"elsewhere, token", false, withToken(plainTLS(get("/status")), testToken), 200},
		{"elsewhere, wrong token", false, withToken(plainTLS(get("/status")), testToken+"x"), 401},
		{"elsewhere, empty token", false, withToken(plainTLS(get("/status")), ""), 401},
		{"elsewhere, certificate", false, verified(get("/status")), 200},
		{"elsewhere, alive", false, plainTLS(get("/livez")), 200},
		{"elsewhere, ready", false, plainTLS(get("/readyz")), 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Config{Local: tc.local, Profiles: true, Metrics: http.NotFoundHandler()}
			w := answer(c, tc.request)
			if w.Code != tc.want {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, tc.want)
			}
			if !tc.local && strings.Contains(tc.name, "ready") && strings.Contains(w.Body.String(), "db1") {
				t.Errorf("tells a stranger %q", w.Body)
			}
		})
	}
}

// Without a token nobody has it.
func TestNoToken(t *testing.T) {
	c := Config{Sources: Sources{Snapshots: snapshots()}, Local: true}
	r := request("POST", "/reload")
	r.Header.Set("Authorization", "Bearer ")
	w := httptest.NewRecorder()
	if Handler(c).ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("got %d", w.Code)
	}
}

// A name that was made to lead to loopback reads nothing (DNS rebinding).
func TestHost(t *testing.T) {
	for host, want := range map[string]int{
		"127.0.0.1:7433": 200, "127.0.0.1": 200, "localhost:7433": 200, "LOCALHOST": 200, "[::1]:7433": 200, "127.8.9.1:1": 200,
		"attacker.example": 421, "attacker.example:7433": 421, "10.0.0.1:7433": 421, "": 421,
		"localhost.attacker.example": 421, "127.0.0.1.attacker.example:7433": 421, "[::2]:7433": 421,
	} {
		for _, r := range []*http.Request{request("GET", "/status"), withToken(request("POST", "/reload"), testToken)} {
			r.Host = host
			w := answer(Config{Local: true, Actions: Actions{Reload: func(context.Context) (string, error) { return "", nil }}}, r)
			if w.Code != want {
				t.Errorf("%s %s of %q: got %d, want %d", r.Method, r.URL.Path, host, w.Code, want)
			}
		}
	}
	r := request("GET", "/status")
	r.Host = "whatever"
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: "unix"})))
	if w := answer(Config{Local: true}, r); w.Code != 200 {
		t.Errorf("on a unix socket: got %d", w.Code)
	}
}

// What stands in every answer, refusals included.
func TestHeaders(t *testing.T) {
	for _, path := range []string{"/", "/status", "/page.js", "/nowhere", "/livez"} {
		w := answer(Config{Local: true}, request("GET", path))
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := w.Header().Get(name); !strings.Contains(got, want) {
				t.Errorf("%s: %s is %q, want %q in it", path, name, got, want)
			}
		}
		if got := w.Header().Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("%s: lets %q in", path, got)
		}
	}
}

func post(path string, form ...string) *http.Request {
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Set(form[i], form[i+1])
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Host = "localhost"
	return r
}

// recorder is Actions that remember what they were asked for.
func recorder(done *[]string) Actions {
	note := func(words ...string) error {
		*done = append(*done, strings.Join(words, " "))
		if slices.Contains(words, "bad") {
			return errors.New("there is no such server")
		}
		return nil
	}
	return Actions{
		Drain: func(cluster, backend string, drained bool) error {
			if drained {
				return note("drain", cluster, backend)
			}
			return note("undrain", cluster, backend)
		},
		Accept:     func(cluster, backend string) error { return note("accept", cluster, backend) },
		Forget:     func(cluster string) error { return note("forget", cluster) },
		EndSession: func(id uint64) error { return note("end", string(rune('0'+id))) },
		Reload:     func(context.Context) (string, error) { return "all is well", note("reload") },
		Upgrade:    func(context.Context) (string, error) { return "process 7 serves", note("upgrade") },
	}
}

func TestActions(t *testing.T) {
	for _, tc := range []struct {
		name    string
		request *http.Request
		code    int
		done    string // empty for nothing
		text    string
	}{
		{"drain", post("/drain", "cluster", "main", "backend", "db1"), 200, "drain main db1", "took db1 out of service"},
		{"the only cluster", post("/drain", "backend", "db1"), 200, "drain main db1", "took db1"},
		{"undrain", post("/undrain", "backend", "db1"), 200, "undrain main db1", "back into service"},
		{"accept", post("/accept", "backend", "db1"), 200, "accept main db1", "accepted db1"},
		{"forget", post("/forget", "cluster", "main"), 200, "forget main", "forgot"},
		{"end", post("/sessions/7/end"), 200, "end 7", "ended session 7"},
		{"end of what is no number", post("/sessions/seven/end"), 409, "", "invalid syntax"},
		{"upgrade", post("/upgrade"), 200, "upgrade", "process 7 serves"},
		{"reload", post("/reload"), 200, "reload", "all is well"},
		{"refused", post("/drain", "backend", "bad"), 409, "drain main bad", "there is no such server"},
		{"by GET", request("GET", "/drain?backend=db1"), 405, "", ""},
		{"parameters of the address", post("/drain?backend=db1"), 200, "drain main ", ""},
		{"too long", post("/drain", "backend", strings.Repeat("x", mostForm)), 400, "", "too large"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var done []string
			log := events.New()
			c := Config{Local: true, Actions: recorder(&done), Events: log}
			w := answer(c, withToken(tc.request, testToken))
			if got := strings.Join(done, ", "); w.Code != tc.code || got != tc.done || !strings.Contains(w.Body.String(), tc.text) {
				t.Errorf("got %d %q and did %q; want %d %q and %q", w.Code, w.Body, got, tc.code, tc.text, tc.done)
			}
			if list, _ := log.Since(0); (len(list) == 1) != (tc.code == 200 && tc.name != "reload" && tc.name != "upgrade") {
				t.Errorf("events: %+v", list)
			}
		})
	}
}

// Nothing is done for those who have not got the token in the header, however they were let in to read.
func TestActionsNeedTheToken(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"nothing":     func(*http.Request) {},
		"certificate": func(r *http.Request) { r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}} },
		"other token": func(r *http.Request) { withToken(r, "another") },
		"basic":       func(r *http.Request) { r.SetBasicAuth("admin", testToken) },
		"cookie":      func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "Authorization", Value: "Bearer " + testToken}) },
		"parameter":   func(r *http.Request) { r.URL.RawQuery = url.Values{"Authorization": {"Bearer " + testToken}}.Encode() },
	} {
		for _, path := range []string{"/drain", "/undrain", "/accept", "/forget", "/sessions/7/end", "/reload", "/upgrade"} {
			var done []string
			r := post(path, "backend", "db1")
			spoil(r)
			w := answer(Config{Local: true, Actions: recorder(&done)}, r)
			if w.Code != http.StatusUnauthorized || len(done) > 0 {
				t.Errorf("%s, %s: got %d, did %q", name, path, w.Code, done)
			}
		}
	}
}

// What this program cannot do says so, to those who may ask.
func TestMissingActions(t *testing.T) {
	if w := answer(Config{Local: true}, withToken(post("/reload"), testToken)); w.Code != http.StatusNotImplemented {
		t.Errorf("got %d", w.Code)
	}
}
