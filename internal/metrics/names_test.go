package metrics

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/operations.md anew")

// described is a metric as its registry describes it.
type described struct{ name, help, labels string }

// descForm is what a prometheus.Desc prints.
var descForm = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), unit: "[^"]*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// all lists the metrics of the program itself.
func all(t *testing.T) []described {
	t.Helper()
	m := New("1", "go1")
	m.Watch(Sources{})
	descs := make(chan *prometheus.Desc)
	go func() {
		m.registry.Describe(descs)
		close(descs)
	}()
	var list []described
	for d := range descs {
		parts := descForm.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("cannot read %s", d)
		}
		name, err := strconv.Unquote(parts[1])
		help, err2 := strconv.Unquote(parts[2])
		if err != nil || err2 != nil {
			t.Fatalf("%s: %v, %v", d, err, err2)
		}
		if strings.HasPrefix(name, namespace) {
			list = append(list, described{name, help, strings.ReplaceAll(parts[4], ",", ", ")})
		}
	}
	slices.SortFunc(list, func(a, b described) int { return strings.Compare(a.name, b.name) })
	if len(list) < 15 {
		t.Fatalf("found %d metrics only", len(list))
	}
	return list
}

// Names are as Prometheus' practice has them ("Metric and label naming"): counters end in _total, times in _seconds.
func TestNames(t *testing.T) {
	for _, d := range all(t) {
		if !regexp.MustCompile(`^pgreplicaproxy(_[a-z]+)+$`).MatchString(d.name) || !strings.HasSuffix(d.help, ".") {
			t.Errorf("%s: %s", d.name, d.help)
		}
		for _, label := range strings.Split(d.labels, ", ") {
			if slices.Contains([]string{"user", "client", "database", "address", "id"}, label) {
				t.Errorf("%s has the label %s, which clients choose", d.name, label)
			}
		}
	}
}

// The table in docs/operations.md is what there is.
func TestDocumented(t *testing.T) {
	const path, begin, end = "../../docs/operations.md", "<!-- metrics: go test ./internal/metrics -update -->\n", "<!-- end of metrics -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	got, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the metrics: %q and %q", path, begin, end)
	}
	want := "\n| metric | labels | what it tells |\n|---|---|---|\n"
	for _, d := range all(t) {
		want += fmt.Sprintf("| `%s` | %s | %s |\n", d.name, d.labels, d.help)
	}
	want += "\n"
	if got == want {
		return
	}
	if !*update {
		t.Fatalf("%s is not current (go test -update writes it): got\n%s\nwant\n%s", path, got, want)
	}
	if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The dashboard and the alerts ask for nothing that there is not, and the dashboard is JSON.
func TestPackaging(t *testing.T) {
	known := map[string]bool{}
	for _, d := range all(t) {
		known[d.name] = true
		if strings.HasSuffix(d.name, "_seconds") {
			known[d.name+"_bucket"], known[d.name+"_count"], known[d.name+"_sum"] = true, true, true
		}
	}
	for _, path := range []string{"../../packaging/grafana-dashboard.json", "../../packaging/prometheus-alerts.yml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON", path)
		}
		names := regexp.MustCompile(`\bpgreplicaproxy_\w+`).FindAllString(string(text), -1)
		if len(names) < 10 {
			t.Errorf("%s names %d metrics only", path, len(names))
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s asks for %s, which there is not", path, name)
			}
		}
	}
}
