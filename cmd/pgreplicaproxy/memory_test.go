package main

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

// The heap may grow by half or by 16 MiB; what it grew by is given back once it was calm for a second, and not again before as
// much was allocated anew.
func TestKeeper(t *testing.T) {
	const mib = 1 << 20
	var k keeper
	for i, second := range []struct {
		live, allocated uint64
		percent         int
		giveBack        bool
	}{
		{0, 0, 400, false},
		{1 * mib, 10 * mib, 400, false}, // logins
		{8 * mib, 20 * mib, 200, false},
		{8 * mib, 20 * mib, 200, true}, // calm
		{8 * mib, 21*mib - 1, 200, false},
		{8 * mib, 37*mib - 1, 200, false},
		{8 * mib, 37*mib - 1, 200, true},
		{200 * mib, 90 * mib, 50, false},
		{200 * mib, 90 * mib, 50, false}, // half of what lives is more
		{200 * mib, 140 * mib, 50, false},
		{200 * mib, 140 * mib, 50, true},
	} {
		if percent, giveBack := k.look(second.live, second.allocated); percent != second.percent || giveBack != second.giveBack {
			t.Errorf("second %d: got %d%%, %v, want %d%%, %v", i, percent, giveBack, second.percent, second.giveBack)
		}
	}
}

// What is left over from a storm goes back to the operating system.
func TestKeepMemory(t *testing.T) {
	t.Setenv("GOGC", "")
	storm := make([][]byte, 64)
	for i := range storm {
		storm[i] = make([]byte, 1<<20)
	}
	runtime.KeepAlive(storm)
	storm = nil
	runtime.GC()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keepMemory(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	free := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if metrics.Read(free); free[0].Value.Uint64() < 8<<20 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes are free and still held", free[0].Value.Uint64())
		}
	}
}
