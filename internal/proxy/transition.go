package proxy

import (
	"fmt"
	"slices"
)

// Handling is what becomes of the sessions on a server whose role changes. The zero value ends them at once.
type Handling uint8

// The handlings.
const (
	// HandleClose ends sessions at once, wherever they are.
	HandleClose Handling = iota
	// HandleDrain ends each session once it is idle, and those that are left after the drain timeout.
	HandleDrain
	// HandleLeave leaves sessions alone.
	HandleLeave
)

var handlingNames = [...]string{HandleClose: "close", HandleDrain: "drain", HandleLeave: "leave"}

// String returns the word the configuration uses.
func (h Handling) String() string {
	if int(h) < len(handlingNames) {
		return handlingNames[h]
	}
	return fmt.Sprintf("Handling(%d)", h)
}

// ParseHandling returns the handling that a word of the configuration names.
func ParseHandling(s string) (Handling, error) {
	if i := slices.Index(handlingNames[:], s); i >= 0 {
		return Handling(i), nil
	}
	return 0, fmt.Errorf(`%q is not a way to treat sessions: write "close", "drain" or "leave"`, s)
}

// Transitions say what becomes of the sessions on a server that changes but is not lost. On a server that is gone, contradicted
// by another primary or of another cluster they end at once, whatever is written here.
type Transitions struct {
	// Demoted is for sessions of the primary whose server became a replica.
	Demoted Handling
	// Promoted is for sessions of a replica whose server became the primary: what a transaction reads there is still right.
	Promoted Handling
	// Lagging is for sessions of a replica that fell behind further than the cluster allows.
	Lagging Handling
}
