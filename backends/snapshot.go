package backends

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// Status says how the monitor fares with a server, beside the server's role. The zero value is [Unknown].
type Status uint8

// The statuses. Where a role is kept, it is the last one that the server told, and kept for 30 s at most after it was told.
const (
	// Unknown is a server that was not asked yet, or did not answer its first questions so far.
	Unknown Status = iota
	// Up is a server that answers and lets the monitor log in. All is well.
	Up
	// Starting is alive and takes no sessions: it starts, stops, recovers, or has hot_standby off (57P03).
	Starting
	// Saturated is alive and has no connection left for the monitor (53300). The role is kept.
	Saturated
	// Misconfigured is alive, and something about the monitor's access has to be mended: TLS, role, password, database,
	// privileges. The role is kept.
	Misconfigured
	// Failing is alive, and answers with another error that says nothing about its role. The role is kept.
	Failing
	// Blind is a server that could not be asked for a fault of this side: the resolver, file descriptors, memory. The
	// role is kept.
	Blind
	// NoLogin still answers on the session that the monitor had open, and lets nobody log in any more: its postmaster
	// hangs, or a lock holds logins up. New sessions are not placed there (the role is unknown); sessions that are there
	// work as before, in the role of State.Claim.
	NoLogin
	// Down is a server whose address refuses connections, or which breaks every one.
	Down
	// Silent is a server that left several questions in a row unanswered, or a primary that let nobody log in for long.
	Silent
	// Conflict is a server that says it is the primary while another one says so too, and nothing tells which is right. Neither is
	// served.
	Conflict
	// Quarantined is a server that says it is the primary and is not believed: it is stale, or a copy, or has lost a conflict.
	// It is not served.
	Quarantined
	// Pending is the primary to be: it is served as soon as that is stored, and the sessions on its predecessor have ended.
	Pending
	// Deserted is a primary with fewer standbys than writing needs. It is not served.
	Deserted
	// Delayed is a standby that replays late on purpose. It is not served.
	Delayed
	// Foreign is a server of another cluster, by its system identifier. It is not served.
	Foreign
)

var statusNames = [...]string{
	Unknown: "unknown", Up: "up", Starting: "starting", Saturated: "saturated", Misconfigured: "misconfigured",
	Failing: "failing", Blind: "blind", NoLogin: "no login", Down: "down", Silent: "silent", Conflict: "conflict",
	Quarantined: "quarantined", Pending: "pending", Deserted: "deserted", Delayed: "delayed", Foreign: "foreign",
}

// Statuses returns all statuses there are.
func Statuses() []Status {
	all := make([]Status, len(statusNames))
	for i := range all {
		all[i] = Status(i)
	}
	return all
}

// String returns the status in the words of logs and pages.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("Status(%d)", s)
}

// State is what is known of one server at one moment. It is a plain value.
type State struct {
	Target Target
	// Role is what new sessions may use the server as; policy.Unknown keeps them away.
	Role policy.Role
	// Claim is what the server itself said last, policy.Unknown where that is not to be believed any more. It differs from
	// Role with the statuses from NoLogin on.
	Claim  policy.Role
	Status Status
	// Reason says why the primary is the primary, where there was a choice.
	Reason string
	// Detail says in a few words what is wrong ("connection refused"), without secrets and fit for a client. It is empty
	// when all is well.
	Detail string
	// Since is when Role, Status or Lagging changed last; the zero time before the first change.
	Since time.Time
	// LagBytes is how much of the log a standby has not replayed, and LagTime how long ago the primary wrote what it replays
	// now, when both were last seen; each counts only while it is known. A standby that lags keeps its role.
	LagBytes                    uint64
	LagTime                     time.Duration
	LagBytesKnown, LagTimeKnown bool
	// Lagging is a standby that is further behind than MonitorConfig.MaxLag allows, or was so until a moment ago.
	Lagging bool

	// All that follows is as of the last answer, zero before the first.

	// SystemIdentifier tells clusters apart (manual, "Control Data Functions", pg_control_system).
	SystemIdentifier string
	// Timeline is that of a primary, or the one that a standby receives; zero for a standby that receives none, or does not
	// tell because the monitor's role lacks pg_monitor.
	Timeline uint32
	// Written is the position (an LSN as a number) where a primary writes its log; Received and Replayed are how far a standby has
	// come. What is not known is zero.
	Written, Received, Replayed uint64
	// Paused is a standby whose replay is paused.
	Paused bool
	// Delay is by how much a standby replays late on purpose (recovery_min_apply_delay).
	Delay time.Duration
	// Receiving is a standby that has a WAL receiver. ReceiverStatus is that receiver's status and Upstream the host:port of the server
	// that it receives from, both empty where the monitor's role lacks pg_monitor.
	Receiving                bool
	ReceiverStatus, Upstream string
	// Senders is how many standbys are connected to the server.
	Senders int
	// ReadOnly is a primary on which transactions are read-only unless they ask otherwise.
	ReadOnly bool
	// StartedAt is when the server's postmaster was started, by the server's clock.
	StartedAt time.Time
	// ServerVersion is the parameter server_version, such as "17.2 (Debian 17.2-1)".
	ServerVersion string
	// LeafHash is the SHA-256 of the certificate that the server presented to the monitor, in DER; zero without TLS.
	LeafHash [32]byte
}

// MajorVersion is the major version of the server, such as 18; zero before its first answer.
func (s State) MajorVersion() int {
	digits := strings.IndexFunc(s.ServerVersion, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(s.ServerVersion)
	}
	major, err := strconv.Atoi(s.ServerVersion[:digits])
	if err != nil {
		return 0
	}
	return major
}

// Judgement is what is remembered of a cluster.
type Judgement struct {
	// SystemIdentifier is the cluster's, empty while there is none.
	SystemIdentifier string
	// Primary names the server accepted as primary last, whatever became of it, and Timeline is the one on which it was accepted.
	Primary  string
	Timeline uint32
	// StateFileError is why the state file could not be read or written; nil when all is well.
	StateFileError error
}

// Snapshot is what is known of a cluster at one moment. It never changes once published; everyone may read it.
type Snapshot struct {
	// States are in the order of MonitorConfig.Targets.
	States []State
	// Backends are the same servers as package policy sees them.
	Backends []policy.Backend
	// Judgement is what the roles stand on.
	Judgement Judgement

	changed chan struct{}
}

// Changed returns a channel that is closed when a newer snapshot exists.
func (s *Snapshot) Changed() <-chan struct{} { return s.changed }

// State returns the state of the server of that name, and whether there is one.
func (s *Snapshot) State(name string) (State, bool) {
	for _, st := range s.States {
		if st.Target.Name == name {
			return st, true
		}
	}
	return State{}, false
}

func newSnapshot(states []State, j Judgement) *Snapshot {
	s := &Snapshot{States: states, Judgement: j, Backends: make([]policy.Backend, len(states)), changed: make(chan struct{})}
	for i, st := range states {
		s.Backends[i] = policy.Backend{
			Name: st.Target.Name, Role: st.Role, Weight: st.Target.Weight, Zone: st.Target.Zone, Lagging: st.Lagging,
			Replayed: st.Replayed, Detail: st.Detail,
		}
	}
	return s
}
