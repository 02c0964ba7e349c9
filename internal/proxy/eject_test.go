package proxy

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Clients that come with their time for a login nearly over cannot have a server passed over that would have answered.
func TestLateClientsEjectNobody(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	for name, test := range map[string]struct {
		left     time.Duration
		failures int
	}{
		"none left":   {-time.Second, 0},
		"little left": {fairTime / 10, 0},
		"enough left": {fairTime + fairTime/10, 1},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, Placement{MaxDials: 1})
			defer st.Close()
			target := backends.Target{Cluster: "main", Name: "db2", Network: "tcp", Address: silent.Addr().String()}
			st.cluster.known = func() *backends.Snapshot {
				return &backends.Snapshot{
					States:   []backends.State{{Target: target, Role: policy.Replica}},
					Backends: []policy.Backend{aReplica},
				}
			}
			near, far := net.Pipe()
			defer func() { _, _ = near.Close(), far.Close() }()
			s := newSession(st.Server, &tlsfront.Client{
				Conn: near, Address: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, Deadline: time.Now().Add(test.left),
				Opening: wire.Opening{Kind: wire.KindStartup, Startup: wire.Startup{Params: []wire.Param{{Name: "user", Value: "app"}}}},
			})
			s.cluster, s.decision = st.cluster, policy.Decision{Target: policy.TargetReplica}
			if _, _, err := s.attempt(context.Background(), "db2", 1); err == nil {
				t.Fatal("a silent server has answered")
			}
			if got := st.cluster.standings.of("db2").outlier.failures; got != test.failures {
				t.Errorf("%d failures are held against the server, want %d", got, test.failures)
			}
		})
	}
}
