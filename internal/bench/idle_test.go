//go:build linux

package main

import (
	"errors"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	var done [100]atomic.Int32
	if err := each(len(done), func(i int) error { done[i].Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range done {
		if got := done[i].Load(); got != 1 {
			t.Errorf("%d was called %d times", i, got)
		}
	}
	broken := errors.New("broken")
	var calls atomic.Int32
	err := each(1_000_000, func(int) error { calls.Add(1); return broken })
	if !errors.Is(err, broken) || calls.Load() > 100 {
		t.Errorf("got %v after %d calls, want %v at once", err, calls.Load(), broken)
	}
}

func TestPerSession(t *testing.T) {
	memory := idle{Sessions: 1000, Base: 10 << 20, Idle: 30 << 20}
	if got, want := memory.perSession(memory.Idle), 20.48; got != want {
		t.Errorf("got %v KiB, want %v", got, want)
	}
}
