package proxy

import (
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// The postmaster is killed, and neither the monitor's own session nor a client's that calculates takes notice. One other session
// that ends makes the monitor ask, and the refusal ends them all.
func TestLostSessionShowsACrash(t *testing.T) {
	c := newCluster(t, pgcluster.Config{})
	t.Cleanup(func() {
		if err := c.Stop(within(t)); err != nil {
			t.Error(err)
		}
	})
	server := c.Servers()[0]
	r := serve(t, c, func(cfg *Config) {
		cfg.Clusters[0].Monitor.Interval, cfg.Clusters[0].Monitor.FreshLogin = time.Hour, time.Hour
	})
	idle, deaf := r.connect("app"), r.connect("app")
	backend, err := strconv.Atoi(exec(t, deaf, "SELECT pg_backend_pid()"))
	if err != nil {
		t.Fatal(err)
	}
	monitors, err := server.QueryString(within(t), "postgres", "SELECT pid FROM pg_stat_activity WHERE usename = 'monitor'")
	if err != nil {
		t.Fatal(err)
	}
	monitor, err := strconv.Atoi(monitors)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{backend, monitor} {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	told(t, idle)
	if got := told(t, deaf); got.Code != "57P01" {
		t.Errorf("the deaf session ended with %v, want SQLSTATE 57P01", got)
	}
}
