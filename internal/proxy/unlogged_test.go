package proxy

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/admission"
)

// TestTellUnlogged leaves lines out of two kinds, and then again of one before the program ends.
func TestTellUnlogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := &written{}
		s := New(Config{Logger: slog.New(slog.NewTextHandler(logged, nil)), Gate: admission.New(admission.Limits{})})
		defer s.Close()
		leaveOut := func(kind string, n int) {
			addr := netip.MustParseAddr("192.0.2.1")
			for s.gate.MayLog(kind, addr) {
			}
			for range n - 1 {
				s.gate.MayLog(kind, addr)
			}
		}
		want := func(lines ...string) {
			t.Helper()
			synctest.Wait()
			got := logged.take()
			for _, line := range lines {
				if !strings.Contains(got, `level=WARN msg="refusals left out of the log" `+line+"\n") {
					t.Errorf("got\n%s\nwant %s", got, line)
				}
			}
			if n := strings.Count(got, "\n"); n != len(lines) {
				t.Errorf("got\n%s\nwant %d lines", got, len(lines))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		leaveOut("tls", 3)
		leaveOut("password", 4)
		go s.tellUnlogged(ctx)
		want()
		time.Sleep(unloggedEvery)
		want("kind=password count=4", "kind=tls count=3")
		time.Sleep(unloggedEvery)
		want()
		leaveOut("tls", 1)
		cancel()
		want("kind=tls count=1")
	})
}

// written is what was written, for a writer and a reader at the same time.
type written struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.Write(b)
}

// take returns what was written since it was asked last.
func (w *written) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.buffer.Reset()
	return w.buffer.String()
}
