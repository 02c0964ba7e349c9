package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/tlsfront"
	"github.com/replicon/pgreplicaproxy/wire"
)

// A server that lets a client in and then says nothing, or trickles, does not keep the session for ever.
func TestReadyTimeout(t *testing.T) {
	for name, trickle := range map[string]string{"silence": "", "one byte a second": "S\x00\x00\x10\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, clientEnd := net.Pipe()
				leg, serverEnd := net.Pipe()
				s := &session{client: &tlsfront.Client{Conn: client, Deadline: time.Now()}, leg: leg, begun: true, expired: errTimeout}
				var work sync.WaitGroup
				work.Go(func() {
					for i := range trickle {
						time.Sleep(time.Second)
						if _, err := serverEnd.Write([]byte(trickle[i : i+1])); err != nil {
							return
						}
					}
				})
				began := time.Now()
				_, err := s.settle(newServerLeg(&backends.Conn{Conn: leg}), nil, s.write)
				if took := time.Since(began); took != readyTimeout || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("ended after %v with %v, want the deadline after %v", took, err, readyTimeout)
				}
				if got := forClient(errors.Join(s.expired, err)); got != forClient(errNotReady) {
					t.Errorf("the client is told %v", got)
				}
				for _, c := range []net.Conn{client, clientEnd, leg, serverEnd} {
					_ = c.Close()
				}
				work.Wait()
			})
		})
	}
}

// Once the server is ready no deadline holds: a session may be silent for days.
func TestReadyLiftsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, clientEnd := net.Pipe()
		leg, serverEnd := net.Pipe()
		s := &session{client: &tlsfront.Client{Conn: client}, leg: leg, begun: true}
		go func() { _, _ = serverEnd.Write([]byte("Z\x00\x00\x00\x05I")) }()
		go func() { _, _ = clientEnd.Read(make([]byte, 100)) }()
		_, err := s.settle(newServerLeg(&backends.Conn{Conn: leg}), nil, s.write)
		if err = errors.Join(err, s.setDeadline(time.Time{})); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(48 * time.Hour)
			_, _ = serverEnd.Write([]byte("N"))
		}()
		if n, err := leg.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("two days later: %d bytes, %v", n, err)
		}
		for _, c := range []net.Conn{client, clientEnd, leg, serverEnd} {
			_ = c.Close()
		}
	})
}

func TestErrLimit(t *testing.T) {
	for _, test := range []struct {
		err    error
		reason Reason
		want   string
		hint   string
	}{
		{
			&admission.LimitError{Limit: "logins", Message: "too many clients are logging in already"}, ReasonLimit,
			"sorry, too many clients are logging in already", "Retry later; logins in the limits block of the proxy's configuration sets it.",
		},
		{
			&admission.ThrottleError{User: "bob", After: 1500 * time.Millisecond}, ReasonThrottled,
			`too many failed logins of user "bob" from this address`, "Retry in 2 s, with the right password.",
		},
		{
			&admission.ThrottleError{User: "bob"}, ReasonThrottled,
			`too many failed logins of user "bob" from this address`, "Retry in 1 s, with the right password.",
		},
	} {
		err := errLimit(test.err)
		told := forClient(err)
		if reasonOf(err) != test.reason || told.Code != wire.TooManyConnections || told.Message != test.want || told.Hint != test.hint {
			t.Errorf("%v: got %s, %+v", test.err, reasonOf(err), told)
		}
		if !errors.Is(err, test.err) {
			t.Errorf("%v: the log does not say it", test.err)
		}
	}
	if err := errLimit(os.ErrClosed); !errors.Is(err, os.ErrClosed) || reasonOf(err) != ReasonInternal {
		t.Errorf("got %v", err)
	}
}
