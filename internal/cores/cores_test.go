package cores

import (
	"runtime"
	"sync"
	"testing"
)

// Whatever is brought, at the same time too, the count stays, and what is taken away again leaves no trace.
func TestBring(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { Bring(1) })
	}
	all.Wait()
	if n := runtime.GOMAXPROCS(0); n != before+8 || Count() != before {
		t.Errorf("%d processors, count %d; want %d, %d", n, Count(), before+8, before)
	}
	for range 8 {
		all.Go(func() { Bring(-1) })
	}
	all.Wait()
	if n := runtime.GOMAXPROCS(0); n != before {
		t.Errorf("%d processors are left, want %d", n, before)
	}
}
