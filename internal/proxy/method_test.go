package proxy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestMethods(t *testing.T) {
	var all Methods
	for _, name := range MethodNames() {
		m, err := ParseMethod(name)
		if err != nil || m.String() != name || all.Has(m) {
			t.Errorf("%s: got %v, %v", name, m, err)
		}
		all |= m
	}
	if got, want := all.String(), strings.Join(MethodNames(), ", "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if MethodSCRAM.Has(MethodMD5) || !all.Has(MethodMD5|MethodTrust) || !all.Has(0) {
		t.Error("Has is wrong")
	}
	if _, err := ParseMethod("scram"); err == nil || !strings.Contains(err.Error(), "scram-sha-256") {
		t.Errorf("got %v, want an error that names the methods", err)
	}
}

// TestForClient keeps what was not written for clients from them.
func TestForClient(t *testing.T) {
	cause := errors.New("dial db1: connect: connection refused")
	for _, tc := range []struct {
		name string
		err  error
		want error
	}{
		{"written for clients", errNoUser, errNoUser},
		{"with its cause", errors.Join(errNoAnswer, cause), errNoAnswer},
		{"wrapped", fmt.Errorf("log in: %w", errNoAnswer), errNoAnswer},
		{"anything else", cause, errInternal},
	} {
		if got := forClient(tc.err); !errors.Is(tc.want, got) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}
