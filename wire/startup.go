package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Version is a protocol version as the StartupMessage carries it: major in the high 16 bits, minor in the low.
type Version uint32

// The versions of protocol 3 that servers speak: 3.2 since PostgreSQL 18; there is no 3.1.
const (
	Version30 Version = 3 << 16
	Version32 Version = 3<<16 | 2
)

// Major returns the major version; only 3 is in use.
func (v Version) Major() uint16 { return uint16(v >> 16) }

// Minor returns the minor version.
func (v Version) Minor() uint16 { return uint16(v) }

// String writes the version as PostgreSQL's messages do, "3.2".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }

// Param is one name and value of a StartupMessage.
type Param struct{ Name, Value string }

// Startup is a StartupMessage of protocol 3. Parameters keep their order and their repeats, and names that are not known
// here ("_pq_." options among them) stay, because the server and not the proxy is to answer for them.
type Startup struct {
	Version Version
	Params  []Param
}

// single are the parameters that may be given once only. A server takes the last of several; a proxy that took another
// one would route by a name the server does not see.
var single = []string{"user", "database", "replication"}

// parseStartup reads the parameters of a StartupMessage as ProcessStartupPacket in
// src/backend/tcop/backend_startup.c does: names and values end in a zero byte, and an empty name, which must be the
// last byte of the packet, ends the list.
func parseStartup(v Version, body []byte) (Startup, error) {
	if v.Major() != 3 {
		return Startup{}, &VersionError{Version: v}
	}
	s := Startup{Version: v}
	for {
		name, rest, ok := bytes.Cut(body, []byte{0})
		if !ok {
			return Startup{}, fmt.Errorf("%w: startup parameters without terminator", ErrMalformed)
		}
		if len(name) == 0 {
			if len(rest) != 0 {
				return Startup{}, fmt.Errorf("%w: %d bytes after the startup parameters", ErrMalformed, len(rest))
			}
			return s, nil
		}
		value, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return Startup{}, fmt.Errorf("%w: startup parameter %q without value", ErrMalformed, name)
		}
		p := Param{Name: string(name), Value: string(value)}
		// Only these names are searched for: a packet full of others must stay cheap, for nobody is authenticated yet.
		if slices.Contains(single, p.Name) {
			if _, seen := s.Get(p.Name); seen {
				return Startup{}, fmt.Errorf("%w: startup parameter %q given twice", ErrMalformed, name)
			}
		}
		s.Params = append(s.Params, p)
		body = rest
	}
}

// Get returns the value of the last parameter of that name, which is the one that counts, and whether there is one.
func (s Startup) Get(name string) (string, bool) {
	for _, p := range slices.Backward(s.Params) {
		if p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// User returns the user name, empty when there is none.
func (s Startup) User() string {
	user, _ := s.Get("user")
	return user
}

// Database returns the database asked for: the user name where none is named or the name is empty
// (src/backend/tcop/backend_startup.c).
func (s Startup) Database() string {
	if db, _ := s.Get("database"); db != "" {
		return db
	}
	return s.User()
}

// Replication reports whether a replication connection is asked for, physical ("true") or logical ("database"). The
// spellings are those of parse_bool in src/backend/utils/adt/bool.c; an error says that the server would refuse the value.
func (s Startup) Replication() (bool, error) {
	value, ok := s.Get("replication")
	if !ok {
		return false, nil
	}
	if value == "database" {
		return true, nil
	}
	b, ok := parseBool(value)
	if !ok {
		return false, fmt.Errorf("%w: invalid value for parameter %q: %q", ErrMalformed, "replication", value)
	}
	return b, nil
}

// With returns a copy of s in which the parameter that counts for name has this value; every other one stays as and where
// it was.
func (s Startup) With(name, value string) Startup {
	s.Params = slices.Clone(s.Params)
	for i, p := range slices.Backward(s.Params) {
		if p.Name == name {
			s.Params[i].Value = value
			return s
		}
	}
	s.Params = append(s.Params, Param{Name: name, Value: value})
	return s
}

// Negotiate returns s as a server may be asked that speaks no version above newest and none of the protocol's options
// ("_pq_."), and the names of the options left out ("Protocol Versions").
func (s Startup) Negotiate(newest Version) (settled Startup, declined []string) {
	settled = Startup{Version: min(s.Version, newest)}
	for _, p := range s.Params {
		if strings.HasPrefix(p.Name, "_pq_.") {
			declined = append(declined, p.Name)
			continue
		}
		settled.Params = append(settled.Params, p)
	}
	return settled, declined
}

// AppendBinary appends the packet, length word included, to b. It never fails; the error is for
// encoding.BinaryAppender.
func (s Startup) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Version))
	for _, p := range s.Params {
		b = append(append(b, p.Name...), 0)
		b = append(append(b, p.Value...), 0)
	}
	b = append(b, 0)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b, nil
}

// parseBool reads a boolean as the server does: unambiguous prefixes of the words, in any case.
func parseBool(s string) (value, ok bool) {
	word := bytes.ToLower([]byte(s))
	prefix := func(full string, least int) bool {
		return len(word) >= least && bytes.HasPrefix([]byte(full), word)
	}
	switch {
	case prefix("true", 1), prefix("yes", 1), prefix("on", 2), string(word) == "1":
		return true, true
	case prefix("false", 1), prefix("no", 1), prefix("off", 2), string(word) == "0":
		return false, true
	}
	return false, false
}
