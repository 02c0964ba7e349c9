package main

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A service manager that reads nothing keeps the program from nothing.
func TestServiceManagerThatIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	t.Setenv("NOTIFY_SOCKET", path)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	m := serviceManager{slog.New(slog.NewTextHandler(&log, nil)), time.Millisecond}
	for log.Len() == 0 { // until the socket is full
		m.ready()
	}
	if !strings.Contains(log.String(), `msg="service manager not notified"`) || !strings.Contains(log.String(), "i/o timeout") {
		t.Errorf("logged %s", log.String())
	}
	if n, err := conn.Read(make([]byte, 100)); n == 0 || err != nil {
		t.Errorf("nothing arrived: %v", err)
	}
	log.Reset()
	if m.replaced(1); log.Len() > 0 {
		t.Errorf("later: %s", log.String())
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if m.ready(); !strings.Contains(log.String(), "not notified") {
		t.Error("a socket that is closed is no error")
	}
	log.Reset()
	t.Setenv("NOTIFY_SOCKET", "")
	if m.ready(); log.Len() > 0 {
		t.Errorf("without a service manager: %s", log.String())
	}
}
