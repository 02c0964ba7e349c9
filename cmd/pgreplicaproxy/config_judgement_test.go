package main

import (
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
)

func TestParseLagLimit(t *testing.T) {
	for s, want := range map[string]backends.LagLimit{
		"0": {}, "1B": {Bytes: 1}, "512kB": {Bytes: 512 << 10}, "16MB": {Bytes: 16 << 20}, "16 MB": {Bytes: 16 << 20}, "2GB": {Bytes: 2 << 30},
		"1TB": {Bytes: 1 << 40}, "30s": {Time: 30 * time.Second}, "1m30s": {Time: 90 * time.Second}, "500ms": {Time: 500 * time.Millisecond},
	} {
		if got, err := parseLagLimit(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "16", "16mb", "16M", "0MB", "0s", "-1MB", "-5s", "1.5GB", "99999999999TB", "MB", "ever"} {
		if got, err := parseLagLimit(s); err == nil {
			t.Errorf("%q: %+v", s, got)
		}
	}
}
