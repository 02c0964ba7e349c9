package discovery

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/replicon/pgreplicaproxy/backends"
)

// maxAnswer bounds what Patroni may answer.
const maxAnswer = 1 << 20

// members is the answer to GET /cluster (Patroni's documentation, "Patroni REST API", monitoring endpoints; Cluster.get_json and
// cluster_as_json in patroni/utils.py). Fields that are not named here are passed over.
type members struct {
	Members []member `json:"members"`
}

type member struct {
	Name string `json:"name"`
	// Role is "leader", "replica", "sync_standby", "quorum_standby" or "standby_leader", which leads a cluster of standbys.
	Role string `json:"role"`
	// State is "running" or, of a standby since Patroni 3, "streaming" or "in archive recovery"; anything else is no server that
	// sessions could go to.
	State string `json:"state"`
	// Host and Port are those of conn_url; a member that has not come up yet has none.
	Host string          `json:"host"`
	Port json.RawMessage `json:"port"` // a number, or in older versions a string
	Tags struct {
		NoLoadBalance bool `json:"noloadbalance"`
	} `json:"tags"`
}

// leads reports whether Patroni takes the member for the primary.
func (m member) leads() bool { return m.Role == "leader" || m.Role == "master" }

// serves reports whether sessions may go to the member, if it is what they want.
func (m member) serves() bool {
	running := slices.Contains([]string{"running", "streaming", "in archive recovery"}, m.State)
	return running && (m.leads() || !m.Tags.NoLoadBalance)
}

// parseMembers makes servers of an answer, all like the template but for their name, address and weight. Members that sessions
// may not go to are watched too, with weight 0. Members without an address are left out.
func parseMembers(body []byte, template backends.Target) (Found, error) {
	var answer members
	if err := json.Unmarshal(body, &answer); err != nil {
		return Found{}, fmt.Errorf("not the answer of Patroni: %w", err)
	}
	if len(answer.Members) > maxServers {
		return Found{}, fmt.Errorf("%d members, of which at most %d are taken", len(answer.Members), maxServers)
	}
	var found Found
	for _, m := range answer.Members {
		t, ok := m.target(template)
		if !ok || slices.ContainsFunc(found.Targets, func(o backends.Target) bool { return o.Name == t.Name }) {
			continue
		}
		found.Targets = append(found.Targets, t)
		if m.leads() {
			found.Leader, found.LeaderAddress = t.Name, t.Address
		}
	}
	if len(found.Targets) == 0 {
		return Found{}, fmt.Errorf("no member with an address among %d", len(answer.Members))
	}
	slices.SortFunc(found.Targets, func(a, b backends.Target) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// target is the member as a server, false if it has no name or address to reach it by.
func (m member) target(template backends.Target) (t backends.Target, ok bool) {
	port, err := strconv.ParseUint(strings.Trim(string(m.Port), `"`), 10, 16)
	if name := plainName(m.Name); err != nil || port == 0 || m.Host == "" || name == "" || strings.ContainsAny(m.Host, " /") {
		return t, false
	} else {
		t = template
		t.Name = name
	}
	t.Network, t.Address = "tcp", net.JoinHostPort(m.Host, strconv.FormatUint(port, 10))
	if !m.serves() {
		t.Weight = 0
	}
	return t, true
}

// plainName makes a member's name one that fits logs, metrics and command lines, like those of the configuration.
func plainName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, name)
	return strings.Trim(name[:min(len(name), 63)], "._-")
}
