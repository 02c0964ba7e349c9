package backends

import (
	"fmt"
	"slices"

	"github.com/replicon/pgreplicaproxy/policy"
)

// OnConflict says what is done while two servers claim to be the primary, the cluster's remembered history speaking against
// neither. The zero value is [ConflictAuto].
type OnConflict uint8

// What can be done in a conflict.
const (
	// ConflictAuto believes the claimant that most of the other servers stream from, and where there are no others the newer
	// one, provided the older one has lost its only standby to it. Otherwise neither is served.
	ConflictAuto OnConflict = iota
	// ConflictNewest believes the highest timeline.
	ConflictNewest
	// ConflictKeep believes the one that was served until now.
	ConflictKeep
	// ConflictRefuse serves neither.
	ConflictRefuse
)

var onConflictNames = [...]string{ConflictAuto: "auto", ConflictNewest: "newest", ConflictKeep: "keep", ConflictRefuse: "refuse"}

// String returns the word the configuration uses.
func (c OnConflict) String() string {
	if int(c) < len(onConflictNames) {
		return onConflictNames[c]
	}
	return fmt.Sprintf("OnConflict(%d)", c)
}

// ParseOnConflict returns what a word of the configuration names.
func ParseOnConflict(s string) (OnConflict, error) {
	if i := slices.Index(onConflictNames[:], s); i >= 0 {
		return OnConflict(i), nil
	}
	return 0, fmt.Errorf(`%q is no way out of a conflict: write "auto", "newest", "keep" or "refuse"`, s)
}

// contest decides between servers that claim to be the primary at the same time (R5), the incumbent perhaps among them.
// It returns the winner, or -1.
func (j *judgement) contest(claimants []int, incumbent int) int {
	switch len(claimants) {
	case 0:
		return -1
	case 1: // the incumbent, or the first of all
		if j.memory.Primary == "" {
			j.explain(claimants[0], "the first primary that was seen")
		}
		return claimants[0]
	}
	winner, reason := j.decide(claimants, incumbent)
	for _, i := range claimants {
		o := j.observations[i]
		switch {
		case i == winner:
			j.explain(i, reason)
		case winner < 0:
			j.withhold(i, Conflict, "claims to be primary beside "+j.names(claimants, i))
		default:
			j.withhold(i, Quarantined, fmt.Sprintf("claims to be primary on timeline %d, but %s is: %s",
				o.reading.timeline, j.observations[winner].target.Name, reason))
			if o.reading.timeline > j.observations[winner].reading.timeline { // it would be a successor once the winner is gone
				before, _ := j.memory.forked(o.target.Name, o.reading.timeline)
				j.memory = j.memory.withFork(o.target.Name, fork{Timeline: o.reading.timeline, Overruled: before.Overruled})
			}
		}
	}
	return winner
}

// decide returns who wins a contest of two or more, and why.
func (j *judgement) decide(claimants []int, incumbent int) (winner int, reason string) {
	if j.rules.onConflict == ConflictRefuse {
		return -1, ""
	}
	for _, i := range claimants {
		if j.rules.leader != "" && j.observations[i].target.Name == j.rules.leader {
			return i, "the cluster's manager says so"
		}
	}
	switch j.rules.onConflict {
	case ConflictKeep:
		if slices.Contains(claimants, incumbent) {
			return incumbent, "it was before"
		}
	case ConflictNewest:
		if i := j.newest(claimants); i >= 0 {
			return i, fmt.Sprintf("timeline %d is the newest", j.observations[i].reading.timeline)
		}
	case ConflictAuto:
		if i := j.followed(claimants); i >= 0 {
			return i, "the standbys follow it"
		}
		if i := j.promoted(claimants, incumbent); i >= 0 {
			return i, fmt.Sprintf("it was promoted, and %s has no standby left", j.observations[incumbent].target.Name)
		}
	}
	return -1, ""
}

// newest returns the claimant on the highest timeline, -1 if two are.
func (j *judgement) newest(claimants []int) int {
	best := -1
	for _, i := range claimants {
		switch t := j.observations[i].reading.timeline; {
		case best < 0 || t > j.observations[best].reading.timeline:
			best = i
		case t == j.observations[best].reading.timeline:
			return -1
		}
	}
	return best
}

// followed returns the claimant that a strict majority of the standbys that can be asked stream from, -1 if there is none. A
// claimant that cannot be asked itself is taken at its last word.
func (j *judgement) followed(claimants []int) int {
	standbys, votes := j.votes(claimants)
	for k, n := range votes {
		if 2*n > standbys {
			return claimants[k]
		}
	}
	return -1
}

// votes counts the standbys that can be asked, and those of them that stream from each claimant.
func (j *judgement) votes(claimants []int) (standbys int, votes []int) {
	votes = make([]int, len(claimants))
	for s, o := range j.observations {
		if o.claim != policy.Replica || !j.ours(s) || slices.Contains(claimants, s) {
			continue
		}
		standbys++
		for k, i := range claimants {
			if o.reading.receiver == "streaming" && o.reading.timeline == j.timeline(i) && j.observations[i].isAt(o.reading.upstream) {
				votes[k]++
			}
		}
	}
	return standbys, votes
}

// timeline returns that of a claimant, or that on which it was accepted when it has not been heard since.
func (j *judgement) timeline(i int) uint32 {
	if o := j.observations[i]; o.claim == policy.Primary {
		return o.reading.timeline
	}
	return j.memory.Epoch
}

// promoted returns the newcomer of two claimants if it was a standby of the other, the incumbent, and that has none left: a
// failover between two servers. No standby may say otherwise.
func (j *judgement) promoted(claimants []int, incumbent int) int {
	_, votes := j.votes(claimants)
	if len(claimants) != 2 || !slices.Contains(claimants, incumbent) || slices.Max(votes) > 0 {
		return -1
	}
	newcomer := claimants[0]
	if newcomer == incumbent {
		newcomer = claimants[1]
	}
	old, name := j.observations[incumbent], j.observations[newcomer].target.Name
	epoch, seen := j.memory.Standbys[name]
	if (old.status == Up || old.status == NoLogin) && old.reading.senders == 0 && seen && epoch == j.memory.Epoch {
		return newcomer
	}
	return -1
}
