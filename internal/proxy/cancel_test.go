package proxy

import (
	"testing"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/wire"
)

func TestCancelTable(t *testing.T) {
	var table cancelTable
	db1, db2 := backends.Target{Name: "db1"}, backends.Target{Name: "db2"}
	short := wire.Cancel{ProcessID: 7, Key: []byte("key1")}
	long := wire.Cancel{ProcessID: 7, Key: []byte("a key of protocol 3.2, 32 bytes.")}
	if _, ok := table.find(short); ok {
		t.Error("an empty table knows a key")
	}
	removeShort := table.add(short, db1)
	removeLong := table.add(long, db2) // the same process id on another server
	for _, tc := range []struct {
		name string
		c    wire.Cancel
		want string
	}{
		{"first server", short, "db1"},
		{"second server", long, "db2"},
		{"wrong key", wire.Cancel{ProcessID: 7, Key: []byte("key2")}, ""},
		{"part of a key", wire.Cancel{ProcessID: 7, Key: []byte("key")}, ""},
		{"key with more behind", wire.Cancel{ProcessID: 7, Key: []byte("key11")}, ""},
		{"wrong process", wire.Cancel{ProcessID: 8, Key: []byte("key1")}, ""},
	} {
		target, ok := table.find(tc.c)
		if ok != (tc.want != "") || target.Name != tc.want {
			t.Errorf("%s: got %q, %v; want %q", tc.name, target.Name, ok, tc.want)
		}
	}
	removeShort()
	removeShort() // a second time does nothing
	if _, ok := table.find(short); ok {
		t.Error("a removed key is still known")
	}
	if _, ok := table.find(long); !ok {
		t.Error("removing one key removed the other of the same process")
	}
	removeLong()
	if len(table.entries) != 0 {
		t.Errorf("%d processes are left in the table", len(table.entries))
	}
}
