package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/policy"
)

// full are sources in which everything has a value.
func full() Sources {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	return Sources{
		Version: "1.0.0", Started: now.Add(-time.Hour),
		Snapshots: func() map[string]*backends.Snapshot {
			return map[string]*backends.Snapshot{"main": {States: []backends.State{
				{
					Target: backends.Target{Name: "db1", Address: "10.0.0.11:5432", Weight: 1, Zone: "a"},
					Status: backends.Down, Detail: "connection refused", Since: now, Upstream: "10.0.0.12:5432",
				},
				{
					Target: backends.Target{Name: "db2", Address: "10.0.0.12:5432", Weight: 1}, Role: policy.Primary, Claim: policy.Primary,
					Status: backends.Up, Since: now, Timeline: 3, ServerVersion: "17.2", Reason: "the newest timeline",
				},
				{
					Target: backends.Target{Name: "db3"}, Role: policy.Replica, Claim: policy.Replica, Status: backends.Up,
					LagBytes: 5 << 20, LagBytesKnown: true, LagTime: 1500 * time.Millisecond, LagTimeKnown: true, Lagging: true,
				},
			}, Backends: make([]policy.Backend, 3), Judgement: backends.Judgement{StateFileError: errors.New("disk full")}}}
		},
		Clusters: func(string) Cluster { return Cluster{Authentication: "relay", Waiting: 2} },
		Access: func() map[string]map[string]Access {
			return map[string]map[string]Access{"main": {"db2": {Binding: "broken", Findings: []string{"pg_hba.conf <lets> everybody in"}}}}
		},
		Standing: func(_, backend string) (drained, ejected bool) { return backend == "db1", backend == "db2" },
		Sessions: func() []Session {
			return []Session{
				{ID: 1, Route: "*", Cluster: "main", Backend: "db2", State: "idle"},
				{ID: 2, Route: "*", Cluster: "main", Backend: "db2", State: "active"},
				{ID: 3, Cluster: "main", State: "login"},
				{ID: 4, Route: "gone since", Cluster: "main", Backend: "gone too", State: "ending"},
			}
		},
		Routes: func() []Route { return []Route{{Name: "*", Cluster: "main", Role: "primary"}} },
		Certificates: func() []Certificate {
			return []Certificate{
				{Names: []string{"db.example.com"}, Source: "acme", Issuer: "CN=R11", NotAfter: &now, Renewed: &now, ExpiresSoon: true, LastError: "<no answer>"},
				{Names: []string{"new.example.com"}, Source: "acme"},
			}
		},
	}
}

func TestStatus(t *testing.T) {
	sources := full()
	st := sources.Status()
	if st.Sessions != 3 || st.Logins != 1 {
		t.Errorf("%d sessions and %d logins, want 3 and 1", st.Sessions, st.Logins)
	}
	main := st.Clusters[0]
	if main.Servers[0].Name != "db2" || main.Servers[0].Sessions != 2 || main.Servers[0].Drained {
		t.Errorf("first server is %+v, want the primary db2 with 2 sessions", main.Servers[0])
	}
	if db1 := main.Servers[1]; db1.Role != "unknown" || db1.Status != "down" || db1.Detail != "connection refused" || !db1.Drained {
		t.Errorf("second server is %+v", db1)
	}
	if a := main.Servers[0].Access; a == nil || a.Binding != "broken" || len(a.Findings) != 1 || main.Servers[1].Access != nil {
		t.Errorf("access is %+v and %+v", a, main.Servers[1].Access)
	}
	if db3 := main.Servers[2]; *db3.LagBytes != 5<<20 || *db3.LagSeconds != 1.5 || !db3.Lagging {
		t.Errorf("third server is %+v", db3)
	}
	if main.Waiting != 2 || main.StateFile != "disk full" || main.Authentication != "relay" || main.Conflict {
		t.Errorf("cluster is %+v", main)
	}
	if got := st.Routes[0].Sessions["db2"]; got != 2 {
		t.Errorf("%d sessions of the route on db2, want 2", got)
	}
}

// What is told is what docs/status.schema.json says, and the schema names nothing that there is not.
func TestStatusSchema(t *testing.T) {
	text, err := os.ReadFile("../../docs/status.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	check := schemaCheck{root: schema, seen: map[string]bool{}}
	sources := full()
	empty := Sources{Snapshots: snapshots()}
	for name, st := range map[string]Status{"full": sources.Status(), "empty": empty.Status()} {
		text, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		for _, problem := range check.value("$", schema, v) {
			t.Errorf("%s: %s", name, problem)
		}
	}
	for name, def := range schema["$defs"].(map[string]any) {
		for field := range def.(map[string]any)["properties"].(map[string]any) {
			if !check.seen[name+"."+field] {
				t.Errorf("no %s has %s, which the schema describes", name, field)
			}
		}
	}
}

// schemaCheck knows as much of JSON Schema as the schema uses.
type schemaCheck struct {
	root map[string]any
	seen map[string]bool // definition.field
	def  string
}

func (c *schemaCheck) value(at string, schema map[string]any, v any) (problems []string) {
	if ref, ok := schema["$ref"].(string); ok {
		c.def = strings.TrimPrefix(ref, "#/$defs/")
		schema = c.root["$defs"].(map[string]any)[c.def].(map[string]any)
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, v) {
		return []string{fmt.Sprintf("%s is %v, not one of %v", at, v, enum)}
	}
	if want, ok := schema["type"]; ok && !c.typed(want, v) {
		return []string{fmt.Sprintf("%s is %T %[2]v, want %v", at, v, want)}
	}
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			problems = append(problems, c.value(fmt.Sprintf("%s[%d]", at, i), schema["items"].(map[string]any), item)...)
		}
	case map[string]any:
		problems = c.object(at, schema, v)
	case string:
		if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339, v); err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", at, err))
			}
		}
	}
	return problems
}

func (c *schemaCheck) object(at string, schema, v map[string]any) (problems []string) {
	def := c.def
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			problems = append(problems, fmt.Sprintf("%s has no %v", at, name))
		}
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(v)) {
		field, known := properties[name].(map[string]any)
		if !known {
			field, known = schema["additionalProperties"].(map[string]any)
		}
		if !known {
			problems = append(problems, fmt.Sprintf("%s has %s, which the schema does not know", at, name))
			continue
		}
		c.seen[def+"."+name] = true
		problems = append(problems, c.value(at+"."+name, field, v[name])...)
		c.def = def
	}
	return problems
}

func (c *schemaCheck) typed(want, v any) bool {
	if list, ok := want.([]any); ok {
		return slices.ContainsFunc(list, func(w any) bool { return c.typed(w, v) })
	}
	number, isNumber := v.(float64)
	switch want {
	case "object":
		_, ok := v.(map[string]any)
		return ok
	case "array":
		_, ok := v.([]any)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "integer":
		return isNumber && number == float64(int64(number))
	case "number":
		return isNumber
	default:
		return v == nil
	}
}
