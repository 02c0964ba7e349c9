package backends

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestCredentialsHideThePassword(t *testing.T) {
	const secret = "s3cr3t-p4ssw0rd"
	credentials := Credentials{User: "monitor", Password: secret, Database: "postgres"}
	config := MonitorConfig{Cluster: "main", Credentials: credentials}
	for _, value := range []any{
		credentials, &credentials, config, &config,
		[]Credentials{credentials},
		map[string]Credentials{"a": credentials},
		NewMonitor(config),
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if got := fmt.Sprintf(verb, value); strings.Contains(got, secret) || strings.Contains(got, fmt.Sprintf("%x", secret)) {
				t.Errorf("%s of %T shows the password: %s", verb, value, got)
			}
		}
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("test", "value", value)
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("test", "value", value)
		if strings.Contains(logged.String(), secret) {
			t.Errorf("the log of %T shows the password: %s", value, logged.String())
		}
	}
	encoded, err := json.Marshal(credentials)
	if err != nil || bytes.Contains(encoded, []byte(secret)) {
		t.Errorf("JSON is %s, %v", encoded, err)
	}
	if got := fmt.Sprint(credentials); !strings.Contains(got, "monitor") || !strings.Contains(got, "postgres") {
		t.Errorf("%q does not tell who it is", got)
	}
}
