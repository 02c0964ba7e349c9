package backends

import (
	"maps"
	"strings"

	"github.com/replicon/pgreplicaproxy/policy"
)

// memory is what is remembered of a cluster from one judgement to the next, and in the state file from one run of the
// program to the next. The zero value remembers nothing. Its maps are never changed: whoever has something to add copies them.
type memory struct {
	// SystemIdentifier is the cluster's; a server with another one is never served.
	SystemIdentifier string `json:"system_identifier"`
	// Primary names the incumbent: the server that was accepted as primary last. Address is where it was then, so that it is known
	// again under another name.
	Primary string `json:"primary"`
	Address string `json:"address"`
	// Epoch is the timeline on which it was accepted, the highest one that ever was, and Position how far it had written.
	Epoch    uint32 `json:"timeline"`
	Position uint64 `json:"position"`
	// Standbys are the servers that were seen in recovery, with the epoch in which they were last.
	Standbys map[string]uint32 `json:"standbys"`
	// Forks are servers that claimed to be primary while another one was served.
	Forks map[string]fork `json:"forks,omitempty"`
}

// fork is a history that has parted from the cluster's. A server leaves it behind when it is in recovery again.
type fork struct {
	Timeline uint32 `json:"timeline"`
	// Overruled is true when the operator chose another server: then this one is not heard in a conflict either.
	Overruled bool `json:"overruled,omitempty"`
}

// essence is what has to be remembered before a primary may be served.
type essence struct {
	systemIdentifier, primary string
	epoch                     uint32
}

func (m memory) essence() essence { return essence{m.SystemIdentifier, m.Primary, m.Epoch} }

// same reports whether m says the same as n, wherever the primary has got to.
func (m memory) same(n memory) bool {
	return m.essence() == n.essence() && m.Address == n.Address && maps.Equal(m.Standbys, n.Standbys) && maps.Equal(m.Forks, n.Forks)
}

// forked reports whether the server of that name still has a history of its own at that timeline.
func (m memory) forked(name string, timeline uint32) (fork, bool) {
	f, ok := m.Forks[name]
	return f, ok && timeline <= f.Timeline
}

// withPrimary remembers a server as the incumbent.
func (m memory) withPrimary(o observation) memory {
	m.Primary, m.Address, m.Epoch, m.Position = o.target.Name, o.target.Address, o.reading.timeline, o.reading.written
	return m.withoutFork(o.target.Name)
}

func (m memory) withFork(name string, f fork) memory {
	if m.Forks[name] == f {
		return m
	}
	m.Forks = maps.Clone(m.Forks)
	if m.Forks == nil {
		m.Forks = make(map[string]fork)
	}
	m.Forks[name] = f
	return m
}

func (m memory) withoutFork(name string) memory {
	if _, ok := m.Forks[name]; !ok {
		return m
	}
	m.Forks = maps.Clone(m.Forks)
	delete(m.Forks, name)
	return m
}

// withStandbys remembers who is in recovery now. Servers that are not watched any more are forgotten as standbys.
func (m memory) withStandbys(observations []observation) memory {
	standbys := make(map[string]uint32)
	for _, o := range observations {
		name := o.target.Name
		if o.claim == policy.Replica && o.reading.systemIdentifier == m.SystemIdentifier {
			standbys[name] = m.Epoch
			m = m.withoutFork(name)
		} else if epoch, known := m.Standbys[name]; known {
			standbys[name] = epoch
		}
	}
	if !maps.Equal(standbys, m.Standbys) {
		m.Standbys = standbys
	}
	return m
}

// accepted is the memory of an operator who says that o is the primary, whatever was judged before. Those that claim to be
// beside it, and the incumbent of until now, are overruled.
func (m memory) accepted(o observation, all []observation) memory {
	before := m
	if m.SystemIdentifier != o.reading.systemIdentifier {
		m = memory{SystemIdentifier: o.reading.systemIdentifier}
	} else if before.Primary != "" && before.Primary != o.target.Name {
		m = m.withFork(before.Primary, fork{Timeline: before.Epoch, Overruled: true})
	}
	for _, other := range all {
		if other.target.Name != o.target.Name && other.claim == policy.Primary && other.reading.systemIdentifier == m.SystemIdentifier {
			m = m.withFork(other.target.Name, fork{Timeline: other.reading.timeline, Overruled: true})
		}
	}
	return m.withPrimary(o)
}

// isAt reports whether the address that a standby names as its upstream is that of the server, as the proxy knows it or reaches it.
func (o observation) isAt(upstream string) bool {
	return upstream != "" && o.target.Network == "tcp" && (strings.EqualFold(upstream, o.target.Address) || upstream == o.reading.peer)
}
