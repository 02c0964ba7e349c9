package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

// Config names the sources of one cluster. The zero value has none. It is read only once in use.
type Config struct {
	// Cluster is the cluster's name, for the log and the servers found.
	Cluster string
	// Names are DNS names, each of whose addresses is a server.
	Names []Name
	// Patroni, when not nil, is asked who the members of the cluster are.
	Patroni *Patroni
}

// Found is what the sources know.
type Found struct {
	// Targets are the servers, in an order that does not change while they do not.
	Targets []backends.Target
	// Leader is the member that Patroni takes for the primary, by its name and its address. Both are empty without Patroni, and
	// while it does not answer.
	Leader, LeaderAddress string
}

// answerTimeout bounds a question to one source, all addresses of it included.
const answerTimeout = 5 * time.Second

// maxServers bounds what one source can make the program watch.
const maxServers = 64

// Lookup asks every source once. What one of them does not say is missing, and the error tells why.
func Lookup(ctx context.Context, config Config) (Found, error) {
	var states []*state
	var failures error
	for _, src := range config.sources() {
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		found, err := src.ask(limited)
		cancel()
		if err != nil {
			failures = errors.Join(failures, fmt.Errorf("%s: %w", src, err))
		}
		states = append(states, &state{source: src, found: found})
	}
	return together(states), failures
}

// Finder asks the sources of one cluster. Its methods may be called from anywhere; Run once.
type Finder struct {
	logger *slog.Logger

	mu      sync.Mutex
	config  Config
	updated chan struct{} // has one place
}

// New returns a Finder that has asked nobody. A nil logger is silent.
func New(config Config, logger *slog.Logger) *Finder {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Finder{logger: logger, config: config, updated: make(chan struct{}, 1)}
}

// Update changes the sources. What is known from those that stay is kept.
func (f *Finder) Update(config Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = config
	select {
	case f.updated <- struct{}{}:
	default:
	}
}

func (f *Finder) currentConfig() Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.config
}

// source is one source at work, and what is known from it.
type source interface {
	// same reports whether other asks the same question, so that its answers are worth as much.
	same(other source) bool
	// ask asks once. It is called by one goroutine at a time.
	ask(ctx context.Context) (Found, error)
	interval() time.Duration
	// subject is what is asked about, however.
	subject() string
	// inherit takes over what was found about the same subject by asking in another way, until there is an answer to this.
	inherit(found Found) Found
	// String names the source in the log.
	String() string
}

// sources of a configuration.
func (c Config) sources() []source {
	var list []source
	for _, n := range c.Names {
		list = append(list, &nameSource{Name: n, cluster: c.Cluster})
	}
	if c.Patroni != nil {
		list = append(list, newPatroniSource(*c.Patroni, c.Cluster))
	}
	return list
}

// state is a source with its last answer.
type state struct {
	source
	found   Found
	asked   bool // whatever came of it
	failing bool
	stop    context.CancelFunc
}

// answer is what one question to a source brought.
type answer struct {
	from  *state
	found Found
	err   error
}

// Run asks every source at once, and then each at its interval, until ctx ends. publish gets what all of them know together:
// first when each was asked once, whatever came of it, and then whenever it changes. A source that fails is taken at its last
// answer, and logged once.
func (f *Finder) Run(ctx context.Context, publish func(Found)) {
	var asking sync.WaitGroup
	defer asking.Wait()
	answers := make(chan answer)
	var states []*state
	defer func() {
		for _, s := range states {
			s.stop()
		}
	}()
	states = f.follow(ctx, nil, answers, &asking)
	published, told := false, Found{}
	for {
		if now := together(states); askedAll(states) && (!published || !now.equal(told)) {
			publish(now)
			published, told = true, now
		}
		select {
		case a := <-answers:
			f.take(a, states)
		case <-f.updated:
			states = f.follow(ctx, states, answers, &asking)
		case <-ctx.Done():
			return
		}
	}
}

// follow goes over to the sources of the current configuration: those that stay keep their answers.
func (f *Finder) follow(ctx context.Context, old []*state, answers chan<- answer, asking *sync.WaitGroup) []*state {
	var next []*state
	for _, src := range f.currentConfig().sources() {
		i := slices.IndexFunc(old, func(s *state) bool { return s.same(src) })
		if i >= 0 {
			next = append(next, old[i])
			old = slices.Delete(slices.Clone(old), i, i+1)
			continue
		}
		s := &state{source: src}
		if i = slices.IndexFunc(old, func(s *state) bool { return s.subject() == src.subject() }); i >= 0 {
			s.found = src.inherit(old[i].found)
		}
		var asked context.Context
		asked, s.stop = context.WithCancel(ctx)
		asking.Go(func() { s.run(asked, answers) })
		next = append(next, s)
	}
	for _, s := range old {
		s.stop()
	}
	return next
}

// run asks one source over and over.
func (s *state) run(ctx context.Context, answers chan<- answer) {
	ticks := time.NewTicker(s.interval())
	defer ticks.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		found, err := s.ask(limited)
		cancel()
		select {
		case answers <- answer{s, found, err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}

// take notes an answer, unless it comes from a source that is not asked any more.
func (f *Finder) take(a answer, states []*state) {
	s := a.from
	if !slices.Contains(states, s) {
		return
	}
	s.asked = true
	switch log := f.logger.With("source", s.String()); {
	case a.err != nil && !s.failing:
		log.Warn("servers not looked up, those of the last answer stay", "err", a.err, "servers", len(s.found.Targets))
	case a.err == nil && s.failing:
		log.Info("servers looked up again")
	}
	if s.failing = a.err != nil; s.failing {
		s.found.Leader, s.found.LeaderAddress = "", "" // who led may lead no more
		return
	}
	s.found = a.found
}

func askedAll(states []*state) bool {
	return !slices.ContainsFunc(states, func(s *state) bool { return !s.asked })
}

// together is what all sources know. A name that two servers have is that of the first.
func together(states []*state) Found {
	var all Found
	for _, s := range states {
		for _, t := range s.found.Targets {
			if !slices.ContainsFunc(all.Targets, func(o backends.Target) bool { return o.Name == t.Name }) {
				all.Targets = append(all.Targets, t)
			}
		}
		if s.found.Leader != "" {
			all.Leader, all.LeaderAddress = s.found.Leader, s.found.LeaderAddress
		}
	}
	return all
}

func (f Found) equal(other Found) bool {
	return f.Leader == other.Leader && f.LeaderAddress == other.LeaderAddress && slices.EqualFunc(f.Targets, other.Targets,
		func(a, b backends.Target) bool { return a.SameServer(b) && a.Weight == b.Weight })
}
