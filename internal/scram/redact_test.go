package scram

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// holder keeps secrets the way a session does: in unexported fields, where fmt finds no methods, as pointers. Then %v, %+v
// and %#v write addresses; a verb that is wrong for a struct, such as %s, would follow them, but vet finds that.
type holder struct {
	key    *Key
	secret *Secret
	server *Server
	client *Client
}

// TestNothingPrintsSecrets prints each type in each way, and looks for the keys in every form they could have. The verb %p
// is missing: fmt asks no Formatter there, and vet finds it.
func TestNothingPrintsSecrets(t *testing.T) {
	key, secret := derive("pencil", salt, 1)
	server, client := NewServer(secret, false, frontHash), NewClient(key, secret, frontHash)
	if _, err := server.Final(challenged(t, server, client)); err != nil {
		t.Fatal(err)
	}
	secrets := [][]byte{key[:], secret.StoredKey[:], secret.ServerKey[:], server.signature[:]}

	var printed strings.Builder
	log := slog.New(slog.NewTextHandler(&printed, nil))
	logJSON := slog.New(slog.NewJSONHandler(&printed, nil))
	for _, v := range []any{
		*key, key, secret, &secret, server, client,
		struct {
			K Key
			S Secret
			P *Key
		}{*key, secret, key},
		[]Key{*key},
		map[string]Secret{"a": secret},
		holder{key, &secret, server, client},
	} {
		verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%e", "%T"}
		if _, ok := v.(holder); ok {
			verbs = verbs[:3]
		}
		for _, verb := range verbs {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		fmt.Fprintln(&printed, v)
		fmt.Fprintln(&printed, fmt.Errorf("wrapped: %v", v))
		log.Info("text", "v", v)
		logJSON.Info("json", "v", v)
		if data, err := json.Marshal(v); err != nil {
			t.Errorf("json of %T: %v", v, err)
		} else {
			printed.Write(data)
		}
	}
	for _, s := range secrets {
		for form, text := range forms(s) {
			if strings.Contains(printed.String(), text) {
				t.Errorf("a secret was printed in %s", form)
			}
		}
	}
	for _, want := range []string{"[redacted]", "SCRAM secret iterations=1 [redacted]", "SCRAM server [redacted]", "SCRAM client [redacted]"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("nothing was printed as %q", want)
		}
	}
}

// forms returns the first bytes of secret as fmt, json and encoders write them.
func forms(secret []byte) map[string]string {
	s := secret[:6]
	return map[string]string{
		"raw":         string(s),
		"hexadecimal": hex.EncodeToString(s),
		"HEXADECIMAL": strings.ToUpper(hex.EncodeToString(s)),
		"base64":      base64.StdEncoding.EncodeToString(s),
		"%v":          strings.Trim(fmt.Sprintf("%v", s), "[]"),
		"%#v":         strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", s), "[]byte{"), "}"),
		"%x apart":    strings.Trim(fmt.Sprintf("%x", []int{int(s[0]), int(s[1]), int(s[2]), int(s[3])}), "[]"),
		"%o":          strings.Trim(fmt.Sprintf("%o", s), "[]"),
		"%b":          strings.Trim(fmt.Sprintf("%b", s), "[]"),
		"%q":          strings.Trim(fmt.Sprintf("%q", s), `"`),
		"json":        string(bytes.Trim(bytes.ReplaceAll([]byte(fmt.Sprint(s)), []byte(" "), []byte(",")), "[]")),
	}
}
