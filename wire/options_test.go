package wire_test

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/wire"
)

const setting = "pgreplicaproxy.min_lsn"

func TestTakeSetting(t *testing.T) {
	for _, test := range []struct {
		options, want, value string
		found                bool
	}{
		{"", "", "", false},
		{"-c work_mem=1MB", "-c work_mem=1MB", "", false},
		{"-c pgreplicaproxy.min_lsn=0/1", "", "0/1", true},
		{"-cpgreplicaproxy.min_lsn=0/1", "", "0/1", true},
		{"--pgreplicaproxy.min_lsn=0/1", "", "0/1", true},
		{"--pgreplicaproxy.min-lsn=0/1", "", "0/1", true},
		{"--PgReplicaProxy.MIN_LSN=0/1", "", "0/1", true},
		{"-c pgreplicaproxy.min_lsn=", "", "", true},
		{"-c  work_mem=1MB  -c pgreplicaproxy.min_lsn=0/1 --x=y ", "-c  work_mem=1MB  --x=y ", "0/1", true},
		{" -c pgreplicaproxy.min_lsn=0/1", "", "0/1", true},
		{"\t-c\npgreplicaproxy.min_lsn=0/1\t-e", "\t-e", "0/1", true},
		{`-c search_path=a\ b\\c -c pgreplicaproxy.min_lsn=0/1`, `-c search_path=a\ b\\c `, "0/1", true},
		{`-c pgreplicaproxy.min_lsn=0\/1`, "", "0/1", true},
		{"-c pgreplicaproxy.min_lsn=0/1 -c pgreplicaproxy.min_lsn=0/2", "", "0/2", true},
		{"-c pgreplicaproxy.min_lsn", "-c pgreplicaproxy.min_lsn", "", false}, // the server refuses it
		{"-c pgreplicaproxy.min_lsn2=0/1", "-c pgreplicaproxy.min_lsn2=0/1", "", false},
		{"-d -cpgreplicaproxy.min_lsn=0/1", "-d -cpgreplicaproxy.min_lsn=0/1", "", false}, // an argument, not a switch
		{`-c application_name=\-c\ pgreplicaproxy.min_lsn=0/1`, `-c application_name=\-c\ pgreplicaproxy.min_lsn=0/1`, "", false},
		{"pgreplicaproxy.min_lsn=0/1", "pgreplicaproxy.min_lsn=0/1", "", false},
		{"-c", "-c", "", false},
		{"-c=", "-c=", "", false}, // PgBouncer CVE-2026-107349: a name that is empty
		{"-c =", "-c =", "", false},
		{"-c =0/1 -c= --=0/1 -- -", "-c =0/1 -c= --=0/1 -- -", "", false},
		{"-c= -c pgreplicaproxy.min_lsn=0/1 --=", "-c= --=", "0/1", true},
		{`-c pgreplicaproxy.min_lsn=0/1\`, "", `0/1\`, true},
	} {
		before := wire.Startup{Params: []wire.Param{{Name: "user", Value: "u"}, {Name: "options", Value: test.options}, {Name: "x", Value: "y"}}}
		rest, value, found := before.TakeSetting(setting)
		got, left := rest.Get("options")
		if got != test.want || value != test.value || found != test.found {
			t.Errorf("%q: left %q, value %q, %v; want %q, %q, %v", test.options, got, value, found, test.want, test.value, test.found)
		}
		if wantLeft := test.want != "" || !test.found; left != wantLeft || rest.User() != "u" || before.Params[1].Value != test.options {
			t.Errorf("%q: the packet is %+v, and was %+v", test.options, rest, before)
		}
	}
	if _, _, found := (wire.Startup{}).TakeSetting(setting); found {
		t.Error("a packet without options has the setting")
	}
}

// Whatever a client sends, nothing of it is changed but what was taken.
func FuzzTakeSetting(f *testing.F) {
	f.Add("-c a=b -c pgreplicaproxy.min_lsn=0/1")
	f.Add(`--pgreplicaproxy.min-lsn=\ `)
	f.Add("-c= --= -c =")
	f.Fuzz(func(t *testing.T, options string) {
		s := wire.Startup{Params: []wire.Param{{Name: "options", Value: options}}}
		rest, _, found := s.TakeSetting(setting)
		left, _ := rest.Get("options")
		if !found && left != options {
			t.Errorf("%q became %q, and nothing was taken", options, left)
		}
		if _, _, again := rest.TakeSetting(setting); again {
			t.Errorf("%q became %q, which has the setting still", options, left)
		}
	})
}
