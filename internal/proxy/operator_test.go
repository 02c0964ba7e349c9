package proxy

import (
	"strings"
	"testing"
	"time"
)

// An operator sees every session, with what it does.
func TestList(t *testing.T) {
	r := serve(t, sharedCluster(t), nil)
	began := time.Now()
	writer, reader := r.connect("app"), r.connect("app_replica")
	exec(t, writer, "BEGIN")
	eventually(t, "one active and one idle session", func() bool {
		list := r.List()
		return len(list) == 2 && list[0].State == SessionActive && list[1].State == SessionIdle
	})
	list := r.List()
	first, second := list[0], list[1]
	if first.Backend != "db1" || first.Database != "app" || first.User != "app" || first.Cluster != "main" || first.ToServer == 0 ||
		first.Since.Before(began) || first.Client != writer.Conn().LocalAddr().String() {
		t.Errorf("first session is %+v", first)
	}
	if second.ID <= first.ID || second.Backend == "db1" || second.Backend == "" || second.Database != "app_replica" {
		t.Errorf("second session is %+v", second)
	}
	exec(t, writer, "COMMIT")
	eventually(t, "the session is idle again", func() bool { return r.List()[0].State == SessionIdle })
	hangUp(writer)
	hangUp(reader)
	eventually(t, "nobody is left", func() bool { return len(r.List()) == 0 })
}

// An operator ends one session, in the middle of its query, which PostgreSQL then gives up too.
func TestEndSession(t *testing.T) {
	c := sharedCluster(t)
	r := serve(t, c, nil)
	other, victim := r.connect("app"), r.connect("app")
	pid := exec(t, victim, "SELECT pg_backend_pid()")
	ended := make(chan error, 1)
	go func() {
		_, err := victim.Exec(within(t), "SELECT pg_sleep(600)").ReadAll()
		ended <- err
	}()
	sessions := func(condition string) string {
		n, err := c.Server("db1").QueryString(within(t), "postgres", "SELECT count(*) FROM pg_stat_activity WHERE pid = "+pid+condition)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the query runs", func() bool {
		return r.List()[1].State == SessionActive && sessions(" AND wait_event = 'PgSleep'") == "1"
	})
	if err := r.EndSession(r.List()[1].ID); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "terminating connection due to administrator command (SQLSTATE 57P01)") {
		t.Errorf("the query ended with %v", err)
	}
	eventually(t, "the server has given the query up", func() bool { return sessions("") == "0" })
	exec(t, other, "SELECT 1")
	if err := r.EndSession(1 << 60); err == nil {
		t.Error("a session that does not exist was ended")
	}
}

// A server that is taken out of service gets no new session, loses the idle ones at once, the others when they have finished,
// and gets sessions again when it is back.
func TestDrainBackend(t *testing.T) {
	r := serve(t, sharedCluster(t), func(c *Config) { c.DrainTimeout = time.Hour })
	idle, busy := r.connect("app"), r.connect("app")
	readers := r.connect("app_replica")
	exec(t, busy, "BEGIN")
	if err := r.DrainBackend("main", "db1", true); err != nil {
		t.Fatal(err)
	}
	if got := told(t, idle); got.Code != "57P01" || !strings.Contains(got.Message, `server "db1" is taken out of service`) {
		t.Errorf("the idle session is told %v", got)
	}
	if _, err := r.tryConnect("app", ""); err == nil || !strings.Contains(err.Error(), "db1 is primary (taken out of service)") {
		t.Errorf("a new session got %v", err)
	}
	exec(t, busy, "SELECT 1")
	exec(t, busy, "COMMIT")
	if got := told(t, busy); got.Code != "57P01" {
		t.Errorf("the busy session is told %v", got)
	}
	exec(t, readers, "SELECT 1")
	if err := r.DrainBackend("main", "db1", false); err != nil {
		t.Fatal(err)
	}
	exec(t, r.connect("app"), "SELECT 1")
	for _, unknown := range [][2]string{{"main", "db9"}, {"other", "db1"}} {
		if err := r.DrainBackend(unknown[0], unknown[1], true); err == nil {
			t.Errorf("%v was drained", unknown)
		}
	}
}

// What is left on a drained server after the drain timeout is cut off.
func TestDrainBackendTimeout(t *testing.T) {
	r := serve(t, sharedCluster(t), func(c *Config) { c.DrainTimeout = 50 * time.Millisecond })
	busy := r.connect("app")
	exec(t, busy, "BEGIN")
	if err := r.DrainBackend("main", "db1", true); err != nil {
		t.Fatal(err)
	}
	if got := told(t, busy); got.Code != "57P01" {
		t.Errorf("the busy session is told %v", got)
	}
}
