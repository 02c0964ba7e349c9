package backends

import (
	"fmt"
	"strings"
	"time"

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
	// reading is the server's last answer, answered when it came.
	reading  reading
	answered time.Time
}

// rules is what an operator can say about the judgement.
type rules struct {
	identity     string // MonitorConfig.SystemIdentifier
	onConflict   OnConflict
	takeover     bool // MonitorConfig.AllowSameTimelineTakeover
	allowDelayed bool
	leader       string // the primary by the word of the cluster's manager, empty without one
}

// verdict is what judge makes of its observations.
type verdict struct {
	// states are those of the servers, in the order of the observations.
	states []State
	memory memory
	// primary is the index of the server that is the primary, -1 for none. Its state alone has the role policy.Primary.
	primary int
	// doubtful is a primary that was accepted although another server may know better.
	doubtful bool
}

// judge settles what the servers say of themselves against each other and against what is remembered. It is a pure function: no
// clock, no lock, no log. At most one server comes out as primary: it has the cluster's system identifier, and no timeline
// below the highest that was ever accepted.
//
// The rules, of which docs/design.md says more ("Servers and their roles"):
//
//   - R1: a server with another system identifier is Foreign. The operator names the identifier, or the first one is pinned when
//     all servers agree.
//   - R2: a primary on a timeline that the cluster has left is Quarantined, even if it is the only one up.
//   - R3: the incumbent on its timeline is accepted again; another server on it is Quarantined, unless the incumbent is
//     certainly gone and the server was in recovery before, and so can have been promoted to the same number.
//   - R4: a primary on a newer timeline is accepted when the incumbent is gone, or in recovery.
//   - R5: while the incumbent claims too, the servers that stream from them decide; see contest. Undecided, all are in Conflict.
//
// (R6, how fast a role is left and entered, is record's.)
func judge(m memory, r rules, observations []observation) verdict {
	j := judgement{rules: r, observations: observations, verdict: verdict{memory: m, primary: -1}}
	for _, o := range observations {
		j.states = append(j.states, state(o))
	}
	j.identify()
	if winner := j.choose(j.claimants()); winner >= 0 {
		j.crown(winner)
	}
	j.memory = j.memory.withStandbys(observations)
	return j.verdict
}

// judgement is a judge at work.
type judgement struct {
	verdict
	rules        rules
	observations []observation
}

// identify pins the cluster's identity where there is none (R1), and sets strangers apart.
func (j *judgement) identify() {
	switch named := j.rules.identity; {
	case named != "" && named != j.memory.SystemIdentifier:
		j.memory = memory{SystemIdentifier: named} // what was remembered is of another cluster
	case j.memory.SystemIdentifier == "":
		j.memory.SystemIdentifier = unanimous(j.observations)
	}
	for i, o := range j.observations {
		switch {
		case o.claim == policy.Unknown: // not Foreign either: what is known of it is the past
		case j.memory.SystemIdentifier == "":
			j.withhold(i, Foreign, "the servers belong to different clusters")
		case !j.ours(i):
			j.withhold(i, Foreign, "belongs to another cluster")
		case o.claim == policy.Replica && o.reading.delay > 0 && !j.rules.allowDelayed:
			j.withhold(i, Delayed, fmt.Sprintf("replays %s late on purpose", o.reading.delay))
		case o.claim == policy.Primary: // until it is crowned
			j.states[i].Role = policy.Unknown
		}
	}
}

// unanimous returns the system identifier of all servers of which it is known, up or down, or "".
func unanimous(observations []observation) string {
	identity := ""
	for _, o := range observations {
		switch id := o.reading.systemIdentifier; {
		case id == "" || id == identity:
		case identity != "":
			return ""
		default:
			identity = id
		}
	}
	return identity
}

// ours reports whether a server is of the cluster.
func (j *judgement) ours(i int) bool {
	return j.memory.SystemIdentifier != "" && j.observations[i].reading.systemIdentifier == j.memory.SystemIdentifier
}

// withhold keeps a server from being served.
func (j *judgement) withhold(i int, status Status, detail string) {
	j.states[i].Role, j.states[i].Status, j.states[i].Detail = policy.Unknown, status, detail
}

// incumbent returns the index of the server accepted last, -1 if there was none or it is not watched any more.
func (j *judgement) incumbent() int {
	byAddress := -1
	for i, o := range j.observations {
		if j.memory.Primary != "" && o.target.Name == j.memory.Primary {
			return i
		}
		if j.memory.Address != "" && o.target.Address == j.memory.Address {
			byAddress = i
		}
	}
	return byAddress
}

// claimants lists the servers of the cluster that claim to be its primary with some right. The others who claim it are
// quarantined.
func (j *judgement) claimants() []int {
	var list []int
	incumbent := j.incumbent()
	for i, o := range j.observations {
		if o.claim != policy.Primary || !j.ours(i) {
			continue
		}
		name, timeline, epoch := o.target.Name, o.reading.timeline, j.memory.Epoch
		f, _ := j.memory.forked(name, timeline)
		switch {
		case f.Overruled:
			j.withhold(i, Quarantined, fmt.Sprintf("claims to be primary on timeline %d, and the operator has accepted %s", timeline, j.memory.Primary))
		case timeline < epoch:
			j.withhold(i, Quarantined, fmt.Sprintf("claims to be primary on timeline %d, which the cluster has left for %d", timeline, epoch))
		case timeline == epoch && i != incumbent && !j.mayTakeOver(i, incumbent):
			j.withhold(i, Quarantined, fmt.Sprintf("claims to be primary on timeline %d, on which %s was accepted", timeline, j.memory.Primary))
		default:
			list = append(list, i)
		}
	}
	return list
}

// mayTakeOver reports whether a server on the incumbent's own timeline may succeed it (R3).
func (j *judgement) mayTakeOver(i, incumbent int) bool {
	if incumbent >= 0 {
		o := j.observations[incumbent]
		if o.status != Down && o.claim != policy.Replica && (o.claim == policy.Unknown || j.ours(incumbent)) {
			return false
		}
	}
	o := j.observations[i]
	_, seen := j.memory.Standbys[o.target.Name]
	return seen || j.rules.takeover && o.reading.written >= j.memory.Position
}

// choose returns which of the claimants is the primary, -1 for none.
func (j *judgement) choose(claimants []int) int {
	incumbent := j.incumbent()
	for _, i := range claimants {
		if i == incumbent || j.memory.Primary == "" {
			return j.contest(claimants, incumbent)
		}
	}
	claimants = j.withoutForks(claimants)
	if len(claimants) != 1 {
		return j.contest(claimants, incumbent)
	}
	return j.succeed(claimants[0], incumbent)
}

// withoutForks drops servers that missed what was written while another one was served, unless the standbys follow them.
func (j *judgement) withoutForks(claimants []int) []int {
	var list []int
	for _, i := range claimants {
		o := j.observations[i]
		if _, forked := j.memory.forked(o.target.Name, o.reading.timeline); forked && j.followed(claimants) != i {
			j.withhold(i, Quarantined, fmt.Sprintf("claims to be primary on timeline %d, which parted from what %s has written since", o.reading.timeline, j.memory.Primary))
			continue
		}
		list = append(list, i)
	}
	return list
}

// succeed decides about the one claimant that is not the incumbent, while that does not claim (R3, R4).
func (j *judgement) succeed(i, incumbent int) int {
	if incumbent < 0 {
		j.explain(i, fmt.Sprintf("timeline %d; %s is not watched any more", j.observations[i].reading.timeline, j.memory.Primary))
		return i
	}
	o, before := j.observations[i], j.states[incumbent]
	switch before.Status {
	case Unknown:
		j.withhold(i, Pending, fmt.Sprintf("waits until it is known what became of %s", before.Target.Name))
		return -1
	case Saturated, Misconfigured, Failing, Blind: // for too long to be believed, but perhaps not gone
		if j.followed([]int{i, incumbent}) == incumbent && before.Claim != policy.Replica {
			j.withhold(i, Conflict, fmt.Sprintf("claims to be primary, and the standbys still follow %s", before.Target.Name))
			return -1
		}
	}
	j.doubtful = o.reading.timeline == j.memory.Epoch
	was := before.Status.String()
	if before.Claim == policy.Replica {
		was = "in recovery"
	}
	j.explain(i, fmt.Sprintf("timeline %d after %d; %s is %s", o.reading.timeline, j.memory.Epoch, before.Target.Name, was))
	return i
}

// crown makes a server the primary, and remembers it.
func (j *judgement) crown(i int) {
	j.primary = i
	j.states[i].Role = policy.Primary
	if j.states[i].Status == NoLogin { // it takes no new sessions
		j.states[i].Role = policy.Unknown
	}
	j.memory = j.memory.withPrimary(j.observations[i])
}

// explain notes why a server is the primary.
func (j *judgement) explain(i int, reason string) { j.states[i].Reason = reason }

// names lists servers for a sentence.
func (j *judgement) names(list []int, but int) string {
	var names []string
	for _, i := range list {
		if i != but {
			names = append(names, j.observations[i].target.Name)
		}
	}
	return strings.Join(names, " and ")
}

// state is the state of a server by its own word.
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
