//go:build linux

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/internal/pgcluster"
)

// TestSoak is the soak in small.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	if _, err := pgcluster.Find(0); err != nil {
		if os.Getenv("PGREPLICAPROXY_E2E") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	binary := filepath.Join(t.TempDir(), "pgreplicaproxy")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/pgreplicaproxy").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	report, err := soak(context.Background(), settings{idle: 200, active: 40, hostile: 50, load: 20 * time.Second, binary: binary})
	t.Log("\n" + report)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(report, "failed") || !strings.Contains(report, "nothing was left") {
		t.Error("not as it should be")
	}
}
