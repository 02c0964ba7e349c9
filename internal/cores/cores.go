// Package cores tells how many processors the program may use, and lets goroutines that hold one of Go's while they wait in the
// kernel bring their own. It leaves the choice of the number to Go: GOMAXPROCS, the CPU limit of the cgroup, the affinity mask.
//
// Read next: internal/relay (loop_linux.go) for who brings one, internal/admission for who counts.
package cores

import (
	"runtime"
	"sync"
)

// count is taken before anybody can have brought one.
var count = runtime.GOMAXPROCS(0)

// Count returns how many processors there were for the program when it started: 1 at least. It does not change.
func Count() int { return count }

var mu sync.Mutex

// Bring gives Go's scheduler n more processors (its Ps, runtime.GOMAXPROCS), or takes them away where n is negative, for as many
// goroutines that keep theirs in system calls which wait: the others can still use every core. It stops all goroutines for a
// moment. It is safe for concurrent use. Go no longer follows changes of the cgroup's CPU limit after it.
func Bring(n int) {
	mu.Lock()
	defer mu.Unlock()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + n)
}
