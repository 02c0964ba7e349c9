package backends

import (
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/policy"
)

// rowOf makes a row of roleQuery from words; "-" is NULL.
func rowOf(words string) [][]byte {
	var values [][]byte
	for _, w := range strings.Fields(words) {
		if w == "-" {
			values = append(values, nil)
			continue
		}
		values = append(values, []byte(w))
	}
	return values
}

func TestParseReading(t *testing.T) {
	for _, c := range []struct {
		words string
		want  reading
	}{
		{
			"f 7 3 1000 - - - - f - - - 2 f 1700000000000001",
			reading{role: policy.Primary, systemIdentifier: "7", timeline: 3, written: 1000, senders: 2, started: time.UnixMicro(1700000000000001)},
		},
		{
			"f 7 1 18446744073709551615 - - - - f - - - 0 t 1",
			reading{role: policy.Primary, systemIdentifier: "7", timeline: 1, written: 1<<64 - 1, readOnly: true, started: time.UnixMicro(1)},
		},
		{
			"t 7 3 - 900 800 t 1500 t streaming 10.0.0.1 5432 0 f 1",
			reading{
				role: policy.Replica, systemIdentifier: "7", timeline: 3, received: 900, replayed: 800, paused: true,
				delay: 1500 * time.Millisecond, receiving: true, receiver: "streaming", upstream: "10.0.0.1:5432", started: time.UnixMicro(1),
			},
		},
		{
			"t 7 - - - 800 f 0 t - - - 0 f 1", // without pg_monitor
			reading{role: policy.Replica, systemIdentifier: "7", replayed: 800, receiving: true, started: time.UnixMicro(1)},
		},
	} {
		got, err := parseReading(rowOf(c.words))
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.words, got, err, c.want)
		}
	}
}

func TestParseReadingRefuses(t *testing.T) {
	for _, words := range []string{
		"x 7 3 1000 - - - - f - - - 2 f 1",
		"- 7 3 1000 - - - - f - - - 2 f 1",
		"f - 3 1000 - - - - f - - - 2 f 1",                 // no identity
		"f 7 - 1000 - - - - f - - - 2 f 1",                 // a primary without a timeline
		"f 7 -3 1000 - - - - f - - - 2 f 1",                // signs
		"f 7 4294967296 1000 - - - - f - - - 2 f 1",        // 33 bits
		"t 7 3 - 1e3 800 f 0 f - - - 0 f 1",                // no number
		"t 7 3 - 1 99999999999999999999 f 0 f - - - 0 f 1", // no uint64
	} {
		if got, err := parseReading(rowOf(words)); err == nil {
			t.Errorf("%s: %+v", words, got)
		}
	}
}
