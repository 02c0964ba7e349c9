package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

func snapshots(list ...policy.Backend) func() map[string]*backends.Snapshot {
	return func() map[string]*backends.Snapshot {
		return map[string]*backends.Snapshot{"main": {Backends: list}}
	}
}

// request is one to this machine, as a browser sends it.
func request(method, path string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:7433"
	return r
}

func TestReady(t *testing.T) {
	primary := policy.Backend{Name: "db1", Role: policy.Primary, Weight: 1}
	replica := policy.Backend{Name: "db2", Role: policy.Replica, Weight: 1}
	resting := policy.Backend{Name: "db2", Role: policy.Replica}
	down := policy.Backend{Name: "db3", Weight: 1, Detail: "connection refused"}
	for _, tc := range []struct {
		name, path string
		servers    []policy.Backend
		want       int
		text       string
	}{
		{"alive without servers", "/livez", []policy.Backend{down}, 200, "ok"},
		{"both", "/readyz", []policy.Backend{primary, replica}, 200, "main db1 primary\nmain db2 replica\n"},
		{"primary alone", "/readyz", []policy.Backend{primary, down}, 200, "main db3 unknown: connection refused\n"},
		{"replica alone", "/readyz", []policy.Backend{replica}, 200, "db2"},
		{"nobody", "/readyz", []policy.Backend{down}, 503, "main: no server\n"},
		{"a primary", "/readyz/primary", []policy.Backend{primary}, 200, "db1"},
		{"no primary", "/readyz/primary", []policy.Backend{replica}, 503, "main: no primary\n"},
		{"a replica", "/readyz/replica", []policy.Backend{primary, replica}, 200, "db2"},
		{"no replica", "/readyz/replica", []policy.Backend{primary}, 503, "main: no replica\n"},
		{"a replica of weight 0", "/readyz/replica", []policy.Backend{resting}, 503, "main: no replica\n"},
		{"unknown page", "/nowhere", []policy.Backend{primary}, 404, "not found"},
		{"profiles off", "/debug/pprof/", []policy.Backend{primary}, 404, "not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Handler(Config{Sources: Sources{Snapshots: snapshots(tc.servers...)}, Local: true}).ServeHTTP(w, request("GET", tc.path))
			if w.Code != tc.want || !strings.Contains(w.Body.String(), tc.text) {
				t.Errorf("got %d %q, want %d with %q", w.Code, w.Body, tc.want, tc.text)
			}
		})
	}
}

func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Serve(ctx, ln, Handler(Config{Sources: Sources{Snapshots: snapshots()}, Local: true, Profiles: true}), nil)
	}()
	resp, err := http.Get("http://" + ln.Addr().String() + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || !strings.Contains(string(body), "goroutine profile") {
		t.Errorf("got %q, %v", body, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}
