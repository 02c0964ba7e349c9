package tlsfront

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/replicon/pgreplicaproxy/internal/admission"
)

// Whoever only looks in is not worth a line at the default level; whoever was refused is worth one.
func TestLogs(t *testing.T) {
	for _, test := range []struct {
		name  string
		talk  func(*peer)
		level string
		stage string
	}{
		{"connect and close", func(*peer) {}, "DEBUG", "opening"},
		{"reset, as some health checks do", reset, "DEBUG", "opening"},
		{"close instead of ClientHello", func(p *peer) { p.send(sslRequest); p.want("S") }, "DEBUG", "tls"},
		{"close instead of startup", func(p *peer) { bySSLRequest(p) }, "DEBUG", "startup"},
		{"half a packet", func(p *peer) { p.send("\x00\x00") }, "WARN", "opening"},
		{"garbage", func(p *peer) { p.send("GET / HTTP/1.1\r\n\r\n"); p.rest() }, "WARN", "opening"},
		{"no TLS", func(p *peer) { p.send(startup(3, 0, parameters)); p.refusal() }, "WARN", "opening"},
		{"no handshake", func(p *peer) { p.send(sslRequest); p.want("S"); p.send("hello, world"); p.rest() }, "WARN", "tls"},
		{"malformed inside TLS", func(p *peer) { p = bySSLRequest(p); p.send(startup(3, 0, "x")); p.refusal() }, "WARN", "startup"},
	} {
		logged := &lines{}
		logger := slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		f := startFront(t, loopback(t), Config{Logger: logger}, nil)
		p := f.dial(t)
		client := p.LocalAddr().String()
		test.talk(p)
		p.Close()
		// Closing the listener would drop a connection that was not accepted yet: the next one tells that it was.
		next := f.dial(t)
		next.send(cancelRequest)
		next.rest()
		f.stop(t)
		got := logged.parse(t)
		if len(got) != 1 || got[0]["level"] != test.level || got[0]["stage"] != test.stage || got[0]["client"] != client {
			t.Errorf("%s: logged %v, want one line of level %s, stage %s, client %s", test.name, got, test.level, test.stage, client)
		}
	}
}

// reset makes the coming close send RST, on a connection that was accepted for certain.
func reset(p *peer) {
	afterGSSENC(p)
	if err := p.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		p.t.Fatal(err)
	}
}

// Nobody who is handed over is logged here: that is the handler's to do.
func TestServedIsSilent(t *testing.T) {
	logged := &lines{}
	logger := slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f := startFront(t, loopback(t), Config{Logger: logger}, nil)
	p := bySSLRequest(f.dial(t))
	p.send(startup(3, 0, parameters))
	p.refusal()
	if n := len(f.stop(t)); n != 1 {
		t.Errorf("%d clients, want 1", n)
	}
	if got := logged.parse(t); len(got) != 0 {
		t.Errorf("logged %v", got)
	}
}

// lines collects a log; it is read when all writers are done. Handlers of slog write one line at a time.
type lines struct{ bytes.Buffer }

func (l *lines) parse(t *testing.T) []map[string]any {
	t.Helper()
	var parsed []map[string]any
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		parsed = append(parsed, fields)
	}
	return parsed
}

// Many who are refused get a part of the log and no more; the rest is for debugging, and counted.
func TestLogsAreBounded(t *testing.T) {
	logged := &lines{}
	logger := slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	gate := admission.New(admission.Limits{})
	f := startFront(t, loopback(t), Config{Logger: logger, Gate: gate}, nil)
	const strangers = 100
	for range strangers {
		p := f.dial(t)
		p.send("GET / HTTP/1.1\r\n\r\n")
		p.rest()
		p.Close()
	}
	f.stop(t)
	levels := make(map[any]int)
	for _, line := range logged.parse(t) {
		levels[line["level"]]++
	}
	if unlogged := gate.Unlogged()["protocol"]; levels["WARN"]+levels["DEBUG"] != strangers || levels["DEBUG"] != unlogged || unlogged < strangers/2 {
		t.Errorf("got %v, of %d that are to be %d for debugging, and half of them at least", levels, strangers, unlogged)
	}
}
