// Package events remembers what happened lately, for those who look after the fact: servers that changed, sessions that were
// ended, certificates, reloads. It holds the last events and nothing else, and knows nothing of who reads them.
package events

import (
	"sync"
	"time"
)

// Kept is how many events a [Log] remembers.
const Kept = 1000

// Level says how much an event matters.
type Level string

// The levels.
const (
	Info    Level = "info"    // what was to be expected
	Warning Level = "warning" // what an operator should read
	Error   Level = "error"   // what needs one
)

// Kind says what an event is about.
type Kind string

// The kinds.
const (
	Service     Kind = "service"     // the program itself: started, draining, reloaded
	Server      Kind = "server"      // a server's role or status changed
	Sessions    Kind = "sessions"    // sessions were ended by the program
	Certificate Kind = "certificate" // a certificate was renewed, or could not be
	Operator    Kind = "operator"    // somebody asked for something
)

// Event is one thing that happened. It holds names of the configuration and words of the program, never what a client chose.
type Event struct {
	// ID is greater than that of every event before it, those of earlier runs of the program included.
	ID      uint64    `json:"id"`
	Time    time.Time `json:"time"`
	Level   Level     `json:"level"`
	Kind    Kind      `json:"kind"`
	Cluster string    `json:"cluster,omitempty"`
	Backend string    `json:"backend,omitempty"`
	Text    string    `json:"text"`
}

// Log holds the last events. A nil *Log remembers nothing. All methods may be called from anywhere.
type Log struct {
	mu    sync.Mutex
	last  uint64
	ring  []Event // in order from next on, once it is full
	next  int
	newer chan struct{}
}

// New returns a log without events.
func New() *Log {
	return &Log{last: uint64(time.Now().UnixMilli()), newer: make(chan struct{})}
}

// Add remembers e, and sets its ID and, where it has none, its Time.
func (l *Log) Add(e Event) {
	if l == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.ID = l.last
	if len(l.ring) < Kept {
		l.ring = append(l.ring, e)
	} else {
		l.ring[l.next] = e
		l.next = (l.next + 1) % Kept
	}
	close(l.newer)
	l.newer = make(chan struct{})
}

// Since returns the events after the one with that ID, the oldest first, as far as they are remembered; zero is all. The channel
// is closed when there is a newer one: whoever waits for it and asks again misses nothing but what was forgotten meanwhile.
func (l *Log) Since(id uint64) ([]Event, <-chan struct{}) {
	if l == nil {
		return nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []Event
	for i := range l.ring {
		if e := l.ring[(l.next+i)%len(l.ring)]; e.ID > id {
			list = append(list, e)
		}
	}
	return list, l.newer
}
