package backends

import (
	"errors"
	"fmt"

	"github.com/replicon/pgreplicaproxy/policy"
)

// Accept makes a server the primary by the operator's word, whatever the rules say: after a restore to an earlier time, or to end
// a conflict. The server has to claim it now. Others that claim it are not heard until they were standbys again. Sessions on
// them end before the first is placed on the new primary. It waits for Run, and fails once that has ended.
func (m *Monitor) Accept(backend string) error {
	return m.order(func(p *publisher) error {
		for _, o := range p.observations {
			if o.target.Name != backend {
				continue
			}
			if o.claim != policy.Primary {
				return fmt.Errorf("backend %q does not claim to be the primary: it is %s, %s", backend, o.claim, p.status(backend))
			}
			if named := m.systemIdentifier(); named != "" && named != o.reading.systemIdentifier {
				return fmt.Errorf("backend %q has the system identifier %s, and system_identifier is set to %s: change that first",
					backend, o.reading.systemIdentifier, named)
			}
			p.memory, p.unreadable = p.memory.accepted(o, p.observations), nil
			m.logger.Warn("primary accepted by the operator", "cluster", m.cluster, "backend", backend,
				"timeline", o.reading.timeline, "system_identifier", o.reading.systemIdentifier)
			return nil
		}
		return fmt.Errorf("cluster %q has no backend %q", m.cluster, backend)
	})
}

// Forget clears what is remembered of the cluster, in the state file too: its identity, its primary and its timeline. What the
// servers say next is believed as at a first start. It waits for Run, and fails once that has ended.
func (m *Monitor) Forget() error {
	return m.order(func(p *publisher) error {
		p.memory, p.unreadable = memory{}, nil
		m.logger.Warn("cluster forgotten by the operator", "cluster", m.cluster)
		return nil
	})
}

// SetLeader names the primary by the word of whoever manages the cluster, empty for none. In a conflict that server is
// believed, if it claims to be the primary; without a conflict it changes nothing.
func (m *Monitor) SetLeader(backend string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leader != backend {
		m.leader = backend
		m.wakeUp()
	}
}

// order is an operator's wish that Run carries out.
type order struct {
	carryOut func(*publisher) error
	done     chan error // has one place
}

// errOver is a monitor that watches no more.
var errOver = errors.New("the cluster is not watched any more")

// order hands a wish to Run and waits until it is carried out and published.
func (m *Monitor) order(carryOut func(*publisher) error) error {
	o := order{carryOut, make(chan error, 1)}
	select {
	case m.orders <- o:
		return <-o.done
	case <-m.over:
		return errOver
	}
}

// status returns that of a server as it is published.
func (p *publisher) status(backend string) Status {
	st, _ := p.m.Snapshot().State(backend)
	return st.Status
}
