package backends

import "testing"

func TestTLSModeWords(t *testing.T) {
	for _, mode := range []TLSMode{TLSOff, TLSRequire, TLSVerifyCA, TLSVerifyFull} {
		if got, err := ParseTLSMode(mode.String()); got != mode || err != nil {
			t.Errorf("ParseTLSMode(%q) = %v, %v", mode.String(), got, err)
		}
	}
	for _, word := range []string{"", "prefer", "Require", "TLSMode(9)"} {
		if mode, err := ParseTLSMode(word); err == nil {
			t.Errorf("ParseTLSMode(%q) = %v, want an error", word, mode)
		}
	}
	if got := TLSMode(9).String(); got != "TLSMode(9)" {
		t.Errorf("String = %q", got)
	}
}

// Where a password may travel in clear.
func TestSecure(t *testing.T) {
	for _, c := range []struct {
		network string
		mode    TLSMode
		want    bool
	}{
		{"unix", TLSOff, true},
		{"tcp", TLSOff, false},
		{"tcp", TLSRequire, false},
		{"tcp", TLSVerifyCA, false},
		{"tcp", TLSVerifyFull, true},
	} {
		if got := (Target{Network: c.network, TLS: c.mode}).Secure(); got != c.want {
			t.Errorf("%s with %s: Secure = %t, want %t", c.network, c.mode, got, c.want)
		}
	}
}

func TestServerName(t *testing.T) {
	for _, c := range []struct{ address, name, want string }{
		{"db1.example.com:5432", "", "db1.example.com"},
		{"[::1]:5432", "", "::1"},
		{"10.0.0.1:5432", "db1.example.com", "db1.example.com"},
	} {
		if got := (Target{Address: c.address, ServerName: c.name}).serverName(); got != c.want {
			t.Errorf("name for %q, %q = %q, want %q", c.address, c.name, got, c.want)
		}
	}
}
