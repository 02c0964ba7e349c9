package proxy

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/backends"
)

func TestBinding(t *testing.T) {
	ours, other := [32]byte{1}, [32]byte{2}
	for _, test := range []struct {
		name        string
		passthrough bool
		network     string
		tls         backends.TLSMode
		leaf        [32]byte
		want        Binding
	}{
		{"passthrough", true, "tcp", backends.TLSVerifyFull, other, BindingPassthrough},
		{"passthrough, plain leg", true, "tcp", backends.TLSOff, [32]byte{}, BindingPassthrough},
		{"plain leg", false, "tcp", backends.TLSOff, [32]byte{}, BindingPlain},
		{"unix socket", false, "unix", backends.TLSVerifyFull, [32]byte{}, BindingPlain},
		{"not seen yet", false, "tcp", backends.TLSRequire, [32]byte{}, BindingUnknown},
		{"same certificate", false, "tcp", backends.TLSRequire, ours, BindingEndToEnd},
		{"another certificate", false, "tcp", backends.TLSVerifyFull, other, BindingBroken},
	} {
		st := backends.State{Target: backends.Target{Network: test.network, TLS: test.tls}, LeafHash: test.leaf}
		if got := bindingOf(test.passthrough, st, [][32]byte{{3}, ours}); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
