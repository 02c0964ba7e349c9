package backends

import (
	"strings"

	"github.com/replicon/pgreplicaproxy/policy"
)

// observation is what is known of one server from itself alone. It is what judge judges.
type observation struct {
	target Target
	status Status
	// claim is the role that the server told, while it is believed.
	claim  policy.Role
	detail string
	// err is the fault behind a status other than Up, for the log only.
	err error
	// reading is the server's last answer.
	reading reading
}

// judge settles what the servers say of themselves against each other. It is a pure function: no clock, no lock, no log.
//
// identity is the system identifier of the cluster, empty while there is none. The first one is that which more than half of
// the servers have of which it is known, up or down; while there is no such majority, nobody is served, since there is no
// telling which half is the cluster. From then on it is what it is, as long as the monitor runs: a server with another one
// is Foreign, and never served even if it is the only one left. (So a cluster that was made anew, by initdb or pg_upgrade,
// needs a new monitor.)
//
// Of several servers that claim to be the primary none is served, and each is in Conflict: neither the position in the
// log nor the timeline tells which is right. A server that can no longer be asked claims nothing; see record.
func judge(identity string, observations []observation) (states []State, settled string) {
	if identity == "" {
		identity = majority(observations)
	}
	states = make([]State, len(observations))
	var claimants []*State
	for i, o := range observations {
		st := &states[i]
		*st = state(o)
		switch {
		case o.claim == policy.Unknown: // not Foreign either: what is known of it is the past
		case o.reading.systemIdentifier != identity:
			st.Role, st.Status, st.Detail = policy.Unknown, Foreign, "belongs to another cluster"
			if identity == "" {
				st.Detail = "the servers belong to different clusters"
			}
		case o.claim == policy.Primary:
			claimants = append(claimants, st)
		}
	}
	if len(claimants) > 1 {
		for _, st := range claimants {
			st.Role, st.Status = policy.Unknown, Conflict
			st.Detail = "claims to be primary beside " + others(claimants, st)
		}
	}
	return states, identity
}

// state is the state of a server that nobody contradicts.
func state(o observation) State {
	st := State{
		Target:           o.target,
		Role:             o.claim,
		Claim:            o.claim,
		Status:           o.status,
		Detail:           o.detail,
		SystemIdentifier: o.reading.systemIdentifier,
		Timeline:         o.reading.timeline,
		Written:          o.reading.written,
		Received:         o.reading.received,
		Replayed:         o.reading.replayed,
		Paused:           o.reading.paused,
		Delay:            o.reading.delay,
		Receiving:        o.reading.receiving,
		ReceiverStatus:   o.reading.receiver,
		Upstream:         o.reading.upstream,
		Senders:          o.reading.senders,
		ReadOnly:         o.reading.readOnly,
		StartedAt:        o.reading.started,
		ServerVersion:    o.reading.serverVersion,
		LeafHash:         o.reading.leafHash,
	}
	if o.status == NoLogin {
		st.Role = policy.Unknown
	}
	return st
}

// majority returns the system identifier of more than half of the servers whose identifier is known, or "".
func majority(observations []observation) string {
	known := 0
	count := make(map[string]int)
	for _, o := range observations {
		if id := o.reading.systemIdentifier; id != "" {
			known++
			count[id]++
		}
	}
	for id, n := range count {
		if 2*n > known {
			return id
		}
	}
	return ""
}

// others names the claimants but one.
func others(claimants []*State, but *State) string {
	var names []string
	for _, st := range claimants {
		if st != but {
			names = append(names, st.Target.Name)
		}
	}
	return strings.Join(names, " and ")
}
