package proxy

import (
	"strings"
	"testing"
)

// FuzzLogin plays a login in which neither side can be trusted: whatever they say it comes to an end, no client hears
// AuthenticationOk from a server that asked it nothing, and no byte of a client reaches a server that did not ask.
func FuzzLogin(f *testing.F) {
	const gss = "R\x00\x00\x00\x08\x00\x00\x00\x07"
	for _, seed := range [][2]string{
		{"", ""},
		{"", accepted},
		{initial + password, sasl + challenge + final + accepted},
		{initial + password, sasl + challenge + accepted},
		{initial, sasl + refused},
		{password, "R\x00\x00\x00\x08\x00\x00\x00\x03" + accepted},
		{password, "R\x00\x00\x00\x0c\x00\x00\x00\x05abcd" + accepted},
		{password + password, gss + "R\x00\x00\x00\x08\x00\x00\x00\x08" + accepted},
		{"p\xff\xff\xff\xff", sasl},
		{"X\x00\x00\x00\x04", sasl},
		{initial, "N\x00\x00\x00\x05\x00v\x00\x00\x00\x0c\x00\x03\x00\x00\x00\x00\x00\x00" + sasl},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]), false)
		f.Add([]byte(seed[0]), []byte(seed[1]), true)
	}
	f.Fuzz(func(t *testing.T, client, server []byte, lenient bool) {
		allow := MethodSCRAM
		if lenient {
			allow |= MethodMD5 | MethodGSS
		}
		up, down := newTape(string(client)), newTape(string(server))
		a := playedLogin(up, down, allow)
		err := a.authenticate()
		if reached := strings.Join(down.told, ""); reached != "" && !a.challenged {
			t.Errorf("%q reached a server that had asked for nothing", reached)
		}
		told := strings.Join(up.told, "") + string(a.kept) // which goes with what comes next
		in := strings.Contains(told, accepted)
		if in && !a.challenged || in && a.scram && !a.proven {
			t.Errorf("the client heard AuthenticationOk too early: %q", told)
		}
		if err == nil && !in {
			t.Error("the login is over, and the client has not heard of it")
		}
	})
}
