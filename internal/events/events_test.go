package events

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestSince(t *testing.T) {
	l := New()
	list, newer := l.Since(0)
	if len(list) != 0 {
		t.Errorf("got %v, want nothing", list)
	}
	l.Add(Event{Text: "one"})
	<-newer
	l.Add(Event{Text: "two", Time: time.Unix(1, 0)})
	list, newer = l.Since(0)
	if len(list) != 2 || list[0].Text != "one" || list[1].Text != "two" || list[1].ID <= list[0].ID {
		t.Fatalf("got %+v, want one and two", list)
	}
	if list[0].Time.IsZero() || !list[1].Time.Equal(time.Unix(1, 0)) {
		t.Errorf("times are %v and %v", list[0].Time, list[1].Time)
	}
	if after, _ := l.Since(list[0].ID); len(after) != 1 || after[0].Text != "two" {
		t.Errorf("after the first: %+v", after)
	}
	select {
	case <-newer:
		t.Error("told of an event that nobody added")
	default:
	}
}

// However many events there are, the last ones are kept, in order.
func TestForgets(t *testing.T) {
	l := New()
	for i := range 3*Kept + 7 {
		l.Add(Event{Text: fmt.Sprint(i)})
	}
	list, _ := l.Since(0)
	if len(list) != Kept {
		t.Fatalf("%d events, want %d", len(list), Kept)
	}
	for i, e := range list {
		if want := fmt.Sprint(2*Kept + 7 + i); e.Text != want {
			t.Fatalf("event %d is %s, want %s", i, e.Text, want)
		}
	}
	if len(l.ring) != Kept {
		t.Errorf("holds %d", len(l.ring))
	}
}

// A reader that waits and asks again gets every event once, while others add.
func TestConcurrentReader(t *testing.T) {
	l := New()
	const writers, each = 4, 200 // together fewer than are kept
	var adding sync.WaitGroup
	for range writers {
		adding.Go(func() {
			for range each {
				l.Add(Event{})
			}
		})
	}
	seen, last := 0, uint64(0)
	for seen < writers*each {
		list, newer := l.Since(last)
		for _, e := range list {
			if e.ID <= last {
				t.Fatalf("event %d after %d", e.ID, last)
			}
			last = e.ID
			seen++
		}
		if seen < writers*each {
			<-newer
		}
	}
	adding.Wait()
}

func TestNil(t *testing.T) {
	var l *Log
	l.Add(Event{})
	if list, newer := l.Since(0); list != nil || newer != nil {
		t.Errorf("got %v, %v", list, newer)
	}
}
