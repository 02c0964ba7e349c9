package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/scram"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// store answers for servers: by name the secret, nil for none; servers that are left out cannot be asked.
type store struct {
	secrets map[string]*scram.Secret
	asked   []string // the servers, with "!" where nothing remembered would do
}

func (s *store) lookup(ctx context.Context, backend, role string, maxAge time.Duration) (backends.RoleSecret, error) {
	if _, limited := ctx.Deadline(); !limited || role != "app" {
		return backends.RoleSecret{}, fmt.Errorf("role %q, deadline %t", role, limited)
	}
	if maxAge == 0 {
		backend += "!"
	}
	s.asked = append(s.asked, backend)
	secret, ok := s.secrets[strings.TrimSuffix(backend, "!")]
	if !ok {
		return backends.RoleSecret{}, errors.New("no answer from " + backend)
	}
	return backends.RoleSecret{Secret: secret, Iterations: 5000}, nil
}

// login is one of role app to these servers.
func (s *store) login(servers ...string) *passthrough {
	return &passthrough{session: &session{
		client:   &tlsfront.Client{Deadline: time.Now().Add(time.Hour)},
		request:  policy.Request{User: "app"},
		decision: policy.Decision{Cluster: "main", Backends: servers},
		cluster: &cluster{ClusterConfig: ClusterConfig{
			Passthrough: &Passthrough{Lookup: s.lookup, MockKey: []byte("a key of the tests, of 32 bytes.")},
		}},
	}}
}

func secret(password string) *scram.Secret {
	s := scram.NewSecret(password, []byte("salt of "+password), 1)
	return &s
}

// The secret is that of the first server that can be asked; without one at any of them the client is told to retry.
func TestPrepare(t *testing.T) {
	old, changed := secret("old"), secret("changed")
	s := &store{secrets: map[string]*scram.Secret{"b": old, "c": changed, "none": nil}}
	p := s.login("a", "b", "c")
	if err := p.prepare(context.Background()); err != nil || p.backend != "b" || !p.secret.Equal(*old) {
		t.Errorf("got %v of %q, %v; want that of b", p.secret, p.backend, err)
	}
	if want := []string{"a", "b"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %q, want %q", s.asked, want)
	}
	err := s.login("a", "d").prepare(context.Background())
	if told := forClient(err); told.Code != wire.CannotConnectNow || !strings.Contains(told.Message, `cluster "main"`) {
		t.Errorf("client is told %+v", told)
	}
	if !strings.Contains(err.Error(), "no answer from a") || !strings.Contains(err.Error(), "no answer from d") {
		t.Errorf("the log says %v, want what happened at both", err)
	}
}

// A role without a secret gets one that is always the same, and never lets anybody in.
func TestPrepareMock(t *testing.T) {
	s := &store{secrets: map[string]*scram.Secret{"none": nil}}
	p, again := s.login("none"), s.login("none")
	if err := errors.Join(p.prepare(context.Background()), again.prepare(context.Background())); err != nil {
		t.Fatal(err)
	}
	if p.secret.Iterations != 5000 || len(p.secret.Salt) != 16 || !p.secret.Equal(again.secret) {
		t.Errorf("got %d iterations, %d bytes of salt, the same again: %t; want 5000, 16, true",
			p.secret.Iterations, len(p.secret.Salt), p.secret.Equal(again.secret))
	}
}

// A proof that fails against a secret which was replaced makes the program ask every server anew.
func TestOutdated(t *testing.T) {
	old, changed := secret("old"), secret("changed")
	for name, test := range map[string]struct {
		now   map[string]*scram.Secret
		want  bool
		asked []string
	}{
		"unchanged": {map[string]*scram.Secret{"a": old, "b": old}, false, []string{"a!"}},
		"changed":   {map[string]*scram.Secret{"a": changed, "b": old}, true, []string{"a!", "a!", "b!"}},
		"removed":   {map[string]*scram.Secret{"a": nil, "b": old}, false, []string{"a!"}},
		"gone":      {map[string]*scram.Secret{"b": changed}, false, []string{"a!"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &store{secrets: test.now}
			p := s.login("a", "b")
			p.backend, p.secret = "a", *old
			if got := p.outdated(context.Background()); got != test.want || !slices.Equal(s.asked, test.asked) {
				t.Errorf("got %t, asked %q; want %t, %q", got, s.asked, test.want, test.asked)
			}
		})
	}
}

// Only servers with the very secret that was proven are asked to serve.
func TestKeepCandidates(t *testing.T) {
	old, changed := secret("old"), secret("changed")
	s := &store{secrets: map[string]*scram.Secret{"a": old, "b": changed, "c": nil, "e": old}}
	p := s.login("a", "b", "c", "d", "e")
	p.secret = *old
	if err := p.keepCandidates(context.Background()); err != nil || !slices.Equal(p.decision.Backends, []string{"a", "e"}) {
		t.Errorf("kept %q, %v; want a and e", p.decision.Backends, err)
	}
	p = s.login("b", "c", "d")
	p.secret = *old
	if told := forClient(p.keepCandidates(context.Background())); !errors.Is(errSecretChanged, told) {
		t.Errorf("client is told %+v, want %+v", told, errSecretChanged)
	}
}

// Nothing of a login that goes on shows its secrets.
func TestPassthroughIsNotPrinted(t *testing.T) {
	p := (&store{secrets: map[string]*scram.Secret{"a": secret("old")}}).login("a")
	if err := p.prepare(context.Background()); err != nil {
		t.Fatal(err)
	}
	key := scram.Key([]byte("a key of the tests, of 32 bytes."))
	p.key = &key
	stored, plain := fmt.Sprint(p.secret.StoredKey[:]), fmt.Sprint(key[:])
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		text := fmt.Sprintf(verb, p.key) + fmt.Sprintf(verb, p.secret) + fmt.Sprintf(verb, p.server) +
			fmt.Sprintf(verb, backends.RoleSecret{Secret: &p.secret})
		for _, part := range []string{stored, plain, "a key of the tests", string(p.secret.StoredKey[:])} {
			if strings.Contains(text, part) {
				t.Errorf("%s shows %s", verb, text)
			}
		}
	}
}

// What a client is told of its own part is what PostgreSQL says.
func TestClientScramError(t *testing.T) {
	for err, want := range map[error]*wire.ErrorResponse{
		scram.ErrProof:          {Code: "28P01", Message: `password authentication failed for user "app"`},
		scram.ErrNegotiation:    {Code: "28000", Message: "SCRAM channel binding negotiation error"},
		scram.ErrChannelBinding: {Code: "28000", Message: "SCRAM channel binding check failed"},
		scram.ErrProtocol:       {Code: "08P01", Message: "malformed SCRAM message"},
		errors.New("other"):     errInternal,
	} {
		if told := forClient(clientScramError(err, "app")); told.Code != want.Code || told.Message != want.Message {
			t.Errorf("%v: client is told %+v, want %+v", err, told, want)
		}
	}
	if err := clientScramError(nil, "app"); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
