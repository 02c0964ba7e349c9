package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const events = `{"Action":"output","Package":"p","Test":"TestA","Output":"a says this\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"b is why\n"}
`
	for _, tc := range []struct {
		name, events, want string
		noSkip, ok         bool
	}{
		{"passed", events + `{"Action":"pass","Package":"p","Elapsed":0.5}`, "ok   p 0.5s\n1 passed, 0 failed, 0 skipped\n", true, true},
		{"failed", events + `{"Action":"fail","Package":"p","Test":"TestB"}`, "FAIL p TestB\nb is why\n1 passed, 1 failed, 0 skipped\n", false, false},
		{"skipped", events + `{"Action":"skip","Package":"p","Test":"TestB"}`, "SKIP p TestB\nb is why\n1 passed, 0 failed, 1 skipped\n", false, true},
		{"skip refused", events + `{"Action":"skip","Package":"p","Test":"TestB"}`, "SKIP p TestB\nb is why\n1 passed, 0 failed, 1 skipped\n", true, false},
		{"package broken", events + `{"Action":"output","Package":"p","Output":"panic\n"}
{"Action":"fail","Package":"p"}`, "FAIL p 0.0s\npanic\n1 passed, 0 failed, 0 skipped\n", false, false},
		{"nothing ran", "", "0 passed, 0 failed, 0 skipped\n", false, false},
		{"not JSON", "# build failed\n", "# build failed\n0 passed, 0 failed, 0 skipped\n", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			r := report{out: &out, output: make(map[string][]string)}
			if err := r.read(strings.NewReader(tc.events)); err != nil {
				t.Fatal(err)
			}
			if got := r.ok(tc.noSkip); got != tc.ok {
				t.Errorf("ok = %v, want %v", got, tc.ok)
			}
			if got := out.String(); got != tc.want {
				t.Errorf("printed %q, want %q", got, tc.want)
			}
		})
	}
}
