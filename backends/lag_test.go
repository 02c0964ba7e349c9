package backends

import (
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

var begin = time.Unix(1_000_000, 0)

func at(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }

func TestTrail(t *testing.T) {
	var tr trail
	if _, _, known, dated := tr.behind(7); known || dated {
		t.Error("a lag is known without a primary")
	}
	for second := range 10 { // 100 bytes a second
		tr.add("db1", 1, at(float64(second)), uint64(1000+100*second))
	}
	for _, c := range []struct {
		position uint64
		bytes    uint64
		late     time.Duration
		dated    bool
	}{
		{1900, 0, 0, true},
		{2500, 0, 0, true},
		{1899, 1, time.Second, true},
		{1800, 100, time.Second, true},
		{1799, 101, 2 * time.Second, true},
		{1000, 900, 9 * time.Second, true},
		{999, 901, 9 * time.Second, false},
	} {
		bytes, late, known, dated := tr.behind(c.position)
		if bytes != c.bytes || late != c.late || dated != c.dated || !known {
			t.Errorf("%d: %d bytes, %s, %t; want %d, %s, %t", c.position, bytes, late, dated, c.bytes, c.late, c.dated)
		}
	}
	// Idle for ten minutes: nobody is behind, and who was before is so by what the primary wrote last.
	tr.add("db1", 1, at(609), 1900)
	if _, late, _, _ := tr.behind(1900); late != 0 {
		t.Errorf("%s behind an idle primary", late)
	}
	tr.add("db1", 1, at(610), 5000)
	if _, late, _, _ := tr.behind(1900); late != time.Second {
		t.Errorf("%s behind a primary that was idle a second ago", late)
	}
	// A later answer that came first, and a position that went back in a crash, do no harm.
	tr.add("db1", 1, at(605), 1)
	tr.add("db1", 1, at(611), 4000)
	if bytes, _, _, _ := tr.behind(5000); bytes != 0 {
		t.Errorf("%d bytes", bytes)
	}
	// Another timeline has nothing to do with it.
	tr.add("db1", 2, at(612), 100)
	if bytes, late, known, dated := tr.behind(90); bytes != 10 || late != 0 || !known || dated {
		t.Errorf("%d bytes, %s, %t, %t", bytes, late, known, dated)
	}
}

// However long it grows, a trail stays small, exact for what is recent and right for what is old.
func TestTrailIsBounded(t *testing.T) {
	var tr trail
	const seconds = 100_000
	for s := range seconds {
		tr.add("db1", 1, at(float64(s)), uint64(s))
	}
	if len(tr.samples) > maxSamples || cap(tr.samples) > 4*maxSamples {
		t.Errorf("%d samples of %d", len(tr.samples), cap(tr.samples))
	}
	for _, behind := range []int{1, 100, 500} {
		if _, late, _, dated := tr.behind(uint64(seconds - 1 - behind)); late != time.Duration(behind)*time.Second || !dated {
			t.Errorf("%d s behind: %s", behind, late)
		}
	}
	if _, late, _, dated := tr.behind(0); late != (seconds-1)*time.Second || !dated {
		t.Errorf("behind from the start: %s, %t", late, dated)
	}
	if _, late, _, _ := tr.behind(seconds / 2); late < seconds/2*time.Second {
		t.Errorf("half way behind: %s is too little", late)
	}
}

// measured runs replay positions against a primary that writes 100 bytes a second, and returns when the standby lags.
func measured(limit LagLimit, change func(*observation), replayed ...uint64) string {
	var g gauge
	var tr trail
	told := ""
	for i, position := range replayed {
		tr.add("db1", 2, at(float64(i)), uint64(100*i))
		o := observation{claim: policy.Replica, reading: reading{role: policy.Replica, replayed: position}}
		if change != nil {
			change(&o)
		}
		g.measure(&tr, o, 2, limit)
		told += map[bool]string{true: "L", false: "."}[g.lagging]
	}
	return told
}

func TestLagging(t *testing.T) {
	bytes, seconds := LagLimit{Bytes: 200}, LagLimit{Time: 2 * time.Second}
	for _, c := range []struct {
		name     string
		limit    LagLimit
		change   func(*observation)
		replayed []uint64
		want     string
	}{
		{"never behind", bytes, nil, []uint64{0, 100, 200, 300}, "...."},
		{"out at once, back after two answers under half", bytes, nil, []uint64{0, 100, 200, 200, 200, 200, 500, 600, 700}, ".....LL.."},
		{"at the border it stays what it was", bytes, nil, []uint64{0, 0, 0, 99, 199, 350, 450, 560, 600, 800, 900}, "...LLLLLLL."},
		{"one good answer is not enough", bytes, nil, []uint64{0, 0, 0, 0, 400, 300, 600, 500, 800, 900}, "...LLLLLL."},
		{"seconds", seconds, nil, []uint64{0, 100, 100, 100, 100, 450, 600, 700}, "....LL.."},
		{"a paused standby", bytes, func(o *observation) { o.reading.paused = true }, []uint64{0, 0, 0, 0, 0}, "...LL"},
		{"no limit", LagLimit{}, func(o *observation) { o.reading.timeline = 1 }, []uint64{0, 0, 0, 0, 0}, "....."},
		{"a timeline that was left", bytes, func(o *observation) { o.reading.timeline = 1 }, []uint64{0, 100, 200}, "LLL"},
		{"a standby that is late on purpose, and has received all", bytes, func(o *observation) { o.reading.delay, o.reading.received = time.Hour, 1<<40 }, []uint64{0, 0, 0, 0, 0}, "....."},
	} {
		if got := measured(c.limit, c.change, c.replayed...); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// What is older than the trail may be of any age: by a limit in seconds it lags, by one in bytes it need not.
func TestLaggingFromTheStart(t *testing.T) {
	var tr trail
	tr.add("db1", 2, at(0), 1000)
	o := observation{claim: policy.Replica, reading: reading{role: policy.Replica, replayed: 999}}
	for limit, want := range map[LagLimit]bool{{Time: time.Hour}: true, {Bytes: 1}: false} {
		var g gauge
		g.measure(&tr, o, 2, limit)
		if g.lagging != want {
			t.Errorf("limit %+v: lagging %t", limit, g.lagging)
		}
	}
}

// While no primary is seen a lag stays what it is: it is neither forgotten nor does it grow.
func TestLagIsFrozen(t *testing.T) {
	var g gauges
	one := func(list ...observation) []State {
		v := judge(remembered(), rules{}, list)
		g.update(v, list, LagLimit{Bytes: 100}, 0)
		g.tell(v.states)
		return v.states
	}
	db1, db2 := primaryOn("db1", 2).observation(), standbyOf("db2", "db1", 2).observation()
	db1.answered, db1.reading.written = at(0), 500
	db2.answered, db2.reading.replayed = at(0), 500
	one(db1, db2)
	db1.answered, db1.reading.written = at(1), 1000
	one(db1, db2)
	db2.answered = at(1.1)
	st := one(db1, db2)[1]
	if st.LagBytes != 500 || !st.LagBytesKnown || st.LagTime != time.Second || !st.LagTimeKnown || !st.Lagging || st.Role != policy.Replica {
		t.Errorf("state is %+v", st)
	}
	db1 = gone("db1", Down).observation()
	db2.answered = at(600)
	if now := one(db1, db2)[1]; now.LagBytes != 500 || now.LagTime != time.Second || !now.Lagging {
		t.Errorf("state is %+v", now)
	}
	db2.answered, db2.reading.replayed = at(601), 1000
	if now := one(db1, db2)[1]; now.LagBytes != 0 || now.LagTime != 0 || !now.Lagging {
		t.Errorf("state is %+v", now)
	}
	db2.answered = at(602)
	if now := one(db1, db2)[1]; now.Lagging {
		t.Errorf("state is %+v", now)
	}
}

func TestDeserted(t *testing.T) {
	var g gauge
	seen := ""
	for _, senders := range []int{0, 1, 0, 0, 1, 0, 0, 0, 0, 1} {
		o := observation{reading: reading{role: policy.Primary, senders: senders}}
		g.count(o, 1)
		g.primary = true
		seen += map[bool]string{true: "D", false: "."}[g.deserted]
	}
	if want := "D......DD."; seen != want {
		t.Errorf("%s, want %s", seen, want)
	}
	v := judge(remembered(), rules{}, observe([]saw{primaryOn("db1", 2)}))
	all := gauges{}
	all.update(v, observe([]saw{primaryOn("db1", 2)}), LagLimit{}, 1)
	all.server["db1"].deserted = true
	if all.tell(v.states); told(v) != "db1 unknown deserted" {
		t.Error(told(v))
	}
}
