package discovery

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/replicon/pgreplicaproxy/internal/dnstest"
)

// patience bounds every wait of a test.
const patience = 30 * time.Second

// run runs a Finder as long as the test, and returns what it publishes and logs.
func run(t *testing.T, config Config) (*Finder, *published, *journal) {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	log, p := new(journal), &published{more: make(chan struct{}, 1)}
	f := New(config, slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx, p.add)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		goleak.VerifyNone(t, leaks)
	})
	return f, p, log
}

// published is what a Finder has published.
type published struct {
	mu   sync.Mutex
	all  []Found
	more chan struct{}
}

func (p *published) add(f Found) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, f)
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// last returns what was published last, and how often.
func (p *published) last() (Found, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) == 0 {
		return Found{}, 0
	}
	return p.all[len(p.all)-1], len(p.all)
}

// await waits until the servers are at these addresses.
func (p *published) await(t *testing.T, want ...string) {
	t.Helper()
	over := time.After(patience)
	for {
		found, n := p.last()
		if got := addresses(found); n > 0 && slices.Equal(got, want) {
			return
		}
		select {
		case <-p.more:
		case <-over:
			t.Fatalf("found %v, want %v", addresses(found), want)
		}
	}
}

type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

// awaitQuestions waits for so many more of them.
func awaitQuestions(t *testing.T, s *dnstest.Server, more int) {
	t.Helper()
	for want, over := s.Questions()+more, time.Now().Add(patience); s.Questions() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			t.Fatal("nobody asks")
		}
	}
}

// Addresses come and go; without an answer those of the last one stay, which is logged once.
func TestFinderFollowsNames(t *testing.T) {
	s := dnstest.New(t, "10.0.0.1")
	_, found, log := run(t, Config{Cluster: "main", Names: []Name{nameOf(s)}})
	found.await(t, "10.0.0.1:6543")
	s.Set(0, "10.0.0.1", "10.0.0.2")
	found.await(t, "10.0.0.1:6543", "10.0.0.2:6543")
	s.Set(0, "10.0.0.2")
	found.await(t, "10.0.0.2:6543")
	_, before := found.last()
	for i, code := range []byte{dnstest.NameError, dnstest.ServerFailure} {
		s.Set(code)
		awaitQuestions(t, s, 20)
		if _, n := found.last(); n != before {
			t.Errorf("RCODE %d: something changed: %v", code, found.all[before:])
		}
		if i == 0 {
			continue
		}
		if n := log.count("servers not looked up, those of the last answer stay"); n != 1 {
			t.Errorf("logged %d times, want once:\n%s", n, &log.text)
		}
	}
	s.Set(0, "10.0.0.3", "10.0.0.2")
	found.await(t, "10.0.0.2:6543", "10.0.0.3:6543")
	if n := log.count("servers looked up again"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

// A start without a resolver finds nothing, and says so at once, so that others can be served.
func TestFinderWithoutAnswer(t *testing.T) {
	s, dead := dnstest.New(t, "10.0.0.1"), dnstest.New(t)
	lost := nameOf(dead)
	lost.Target.Name, lost.Target.Address = "lost", "lost.test:5432"
	dead.Close()
	_, found, _ := run(t, Config{Names: []Name{lost, nameOf(s)}})
	found.await(t, "10.0.0.1:6543")
	_, found, _ = run(t, Config{Names: []Name{lost}})
	found.await(t)
	_, found, _ = run(t, Config{})
	found.await(t)
}

// What is known from a source that stays is kept, and the others are forgotten.
func TestFinderUpdate(t *testing.T) {
	stays, goes, comes := dnstest.New(t, "10.0.0.1"), dnstest.New(t, "10.0.1.1"), dnstest.New(t, "10.0.2.1")
	names := func(servers ...*dnstest.Server) (list []Name) {
		for i, s := range servers {
			n := nameOf(s)
			n.Target.Name = "pool" + string(rune('a'+i))
			if s == stays {
				n.Target.Name = "stays"
			}
			list = append(list, n)
		}
		return list
	}
	f, found, _ := run(t, Config{Names: names(stays, goes)})
	found.await(t, "10.0.0.1:6543", "10.0.1.1:6543")
	stays.Set(dnstest.ServerFailure)
	f.Update(Config{Names: names(comes, stays)})
	found.await(t, "10.0.2.1:6543", "10.0.0.1:6543")

	changed := names(stays)
	changed[0].Target.Weight = 7 // asked in another way, and still without an answer
	f.Update(Config{Names: changed})
	found.await(t, "10.0.0.1:6543")
	if f, _ := found.last(); f.Targets[0].Weight != 7 {
		t.Errorf("found %+v, want it with the new weight", f.Targets)
	}
	f.Update(Config{})
	found.await(t)
}

// Lookup tells what there is, and what not.
func TestLookup(t *testing.T) {
	s, dead := dnstest.New(t, "10.0.0.1"), dnstest.New(t)
	dead.Close()
	lost := nameOf(dead)
	lost.Target.Address = "lost.test:5432"
	found, err := Lookup(t.Context(), Config{Cluster: "main", Names: []Name{lost, nameOf(s)}})
	if !slices.Equal(addresses(found), []string{"10.0.0.1:6543"}) || err == nil || !strings.Contains(err.Error(), "DNS name lost.test") {
		t.Errorf("found %v, %v", addresses(found), err)
	}
	if found, err := Lookup(t.Context(), Config{}); err != nil || len(found.Targets) > 0 {
		t.Errorf("nothing to ask: %+v, %v", found, err)
	}
}
