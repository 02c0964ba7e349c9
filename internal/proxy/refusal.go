package proxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/scram"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/wire"
)

// Everything a client may read of an error is in this file, each refusal with its [Reason]. Other errors stay in the log,
// and the client gets errInternal.

var (
	errShutdown = &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: "terminating connection because the proxy is shutting down",
	}
	errAdministrator = &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: "terminating connection due to administrator command", // as pg_terminate_backend has it
	}
	errAged = &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: "terminating connection because it has reached max_session_age",
		Hint:    "Reconnect.",
	}
	errMoved = &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: "terminating connection because another server suits it better now",
		Hint:    "Reconnect to reach it.",
	}
	errLeaving = refuse(ReasonEnded, &wire.ErrorResponse{
		Code:    wire.CannotConnectNow,
		Message: "the proxy is shutting down",
		Hint:    "Retry.",
	})
	errInternal = &wire.ErrorResponse{
		Code:    wire.InternalError,
		Message: "the proxy could not serve the session",
		Hint:    "The log of pgreplicaproxy says why.",
	}
	errNoUser = refuse(ReasonProtocol, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: "no PostgreSQL user name specified in startup packet",
	})
	errNoAnswer = refuse(ReasonProtocol, &wire.ErrorResponse{
		Code:    wire.ProtocolViolation,
		Message: "expected a password message",
	})
	errNotReady = refuse(ReasonTimeout, &wire.ErrorResponse{
		Code:    wire.CannotConnectNow,
		Message: "the server did not begin the session in time",
		Hint:    "Retry; a login trigger or a library of the server may be what takes so long.",
	})
	errTimeout = refuse(ReasonTimeout, &wire.ErrorResponse{
		Code:    wire.CannotConnectNow,
		Message: "login took too long",
		Hint:    "Retry; login_timeout in the proxy's configuration bounds a login.",
	})
)

var errSecretChanged = refuse(ReasonSecret, &wire.ErrorResponse{
	Code:    wire.CannotConnectNow,
	Message: "the role's password was changed a moment ago",
	Hint:    "Retry.",
})

func errNoSecret(cluster string) error {
	return refuse(ReasonSecret, &wire.ErrorResponse{
		Code:    wire.CannotConnectNow,
		Message: fmt.Sprintf("no server of cluster %q could be asked for the role's secret", cluster),
		Hint:    "Retry in a few seconds; the log of pgreplicaproxy says why.",
	})
}

func errNotSCRAM(backend string) error {
	return refuse(ReasonMethod, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("server %q does not ask for SCRAM authentication", backend),
		Hint:    "Let pg_hba.conf on the server ask for scram-sha-256 for the proxy's address.",
	})
}

// clientScramError is PostgreSQL's own answer to a client whose part in a SCRAM exchange was wrong.
func clientScramError(err error, user string) error {
	var answer error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, scram.ErrProof):
		answer = refuse(ReasonPassword, &wire.ErrorResponse{
			Code: wire.InvalidPassword, Message: `password authentication failed for user "` + user + `"`, // to the letter
		})
	case errors.Is(err, scram.ErrNegotiation), errors.Is(err, scram.ErrChannelBinding):
		answer = refuse(ReasonProtocol, &wire.ErrorResponse{Code: wire.InvalidAuthorizationSpecification, Message: err.Error()})
	case errors.Is(err, scram.ErrProtocol):
		answer = refuse(ReasonProtocol, &wire.ErrorResponse{Code: wire.ProtocolViolation, Message: err.Error()})
	default:
		return err
	}
	return errors.Join(answer, err)
}

func errMonitorUser(user string) error {
	return refuse(ReasonMonitorUser, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("role %q is the proxy's own monitor and cannot log in through it", user),
		Hint:    "Connect as another role, or set allow_as_client in the monitor block of the proxy's configuration.",
	})
}

func errNoEntry(e policy.Entry) error {
	return refuse(ReasonAccess, &wire.ErrorResponse{
		Code: wire.InvalidAuthorizationSpecification, Message: e.Reason,
		Hint: "The access blocks of the proxy's configuration say who may come in.",
	})
}

// errLimit is what the client is told of an error of package admission.
func errLimit(err error) error {
	var limit *admission.LimitError
	var throttled *admission.ThrottleError
	switch {
	case errors.As(err, &limit):
		return errors.Join(refuse(ReasonLimit, &wire.ErrorResponse{
			Code: wire.TooManyConnections, Message: "sorry, " + limit.Message,
			Hint: fmt.Sprintf("Retry later; %s in the limits block of the proxy's configuration sets it.", limit.Limit),
		}), err)
	case errors.As(err, &throttled):
		seconds := int(max(throttled.After, time.Second).Round(time.Second) / time.Second)
		return errors.Join(refuse(ReasonThrottled, &wire.ErrorResponse{
			Code: wire.TooManyConnections, Message: fmt.Sprintf("too many failed logins of user %q from this address", throttled.User),
			Hint: fmt.Sprintf("Retry in %d s, with the right password.", seconds),
		}), err)
	default:
		return err
	}
}

func errServerFull(backend string) error {
	return refuse(ReasonLimit, &wire.ErrorResponse{
		Code: wire.TooManyConnections, Message: fmt.Sprintf("sorry, too many sessions on server %q", backend),
		Hint: "Retry later; max_sessions in the backend block of the proxy's configuration sets it.",
	})
}

func errReplication(value string) error {
	return refuse(ReasonProtocol, &wire.ErrorResponse{
		Code:    wire.InvalidParameterValue,
		Message: fmt.Sprintf("invalid value for parameter %q: %q", "replication", value),
		Hint:    `Valid values are: "false", 0, "true", 1, "database".`,
	})
}

// errNoRoute is the answer to a request that no route takes.
func errNoRoute(d policy.Decision, q policy.Request) error {
	if q.Replication {
		return refuse(ReasonNoRoute, &wire.ErrorResponse{
			Code: wire.InvalidAuthorizationSpecification, Message: d.Reason,
			Hint: "A route block with replication = true in the proxy's configuration would allow it.",
		})
	}
	return refuse(ReasonNoRoute, &wire.ErrorResponse{
		Code: wire.InvalidCatalogName, Message: d.Reason,
		Hint: "The route blocks of the proxy's configuration say which databases it serves.",
	})
}

// errNoServer is the answer to a request for which no server came, however long it was held.
func errNoServer(d policy.Decision, held time.Duration) error {
	e := &wire.ErrorResponse{Code: wire.CannotConnectNow, Message: d.Reason, Hint: "Retry in a few seconds."}
	if held > 0 {
		e.Detail = fmt.Sprintf("Waited %v.", held.Round(100*time.Millisecond))
	}
	return refuse(ReasonNoServer, e)
}

// errCrowded is the answer to a request that would have to wait where too many do already.
func errCrowded(d policy.Decision) error {
	return refuse(ReasonCrowded, &wire.ErrorResponse{
		Code:    wire.TooManyConnections,
		Message: fmt.Sprintf("too many clients wait for a %s of cluster %q", d.Target.Noun(), d.Cluster),
		Detail:  d.Reason,
		Hint:    "Retry in a few seconds; max_waiting in the proxy's configuration bounds how many wait.",
	})
}

func errMinLSN(value string) error {
	return refuse(ReasonProtocol, &wire.ErrorResponse{
		Code:    wire.InvalidParameterValue,
		Message: fmt.Sprintf("invalid value for parameter %q: %q", minLSN, value),
		Hint:    `It is a position in the write-ahead log as pg_current_wal_insert_lsn() tells it, such as "16/B374D848".`,
	})
}

func errUnreachable(d policy.Decision) error {
	return refuse(ReasonUnreachable, &wire.ErrorResponse{
		Code:    wire.CannotConnectNow,
		Message: fmt.Sprintf("no %s of cluster %q could be reached", d.Target.Noun(), d.Cluster),
		Detail:  fmt.Sprintf("Tried: %v.", d.Backends),
		Hint:    "Retry in a few seconds; the log of pgreplicaproxy says why.",
	})
}

func errLost(backend string) error {
	return refuse(ReasonUnreachable, &wire.ErrorResponse{
		Code:    wire.CannotConnectNow,
		Message: fmt.Sprintf("the connection to server %q was lost during the login", backend),
		Hint:    "Retry.",
	})
}

func errMethod(backend, cluster, method string) error {
	return refuse(ReasonMethod, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("server %q asks for %s authentication, which cluster %q does not allow", backend, method, cluster),
		Hint:    "Let pg_hba.conf on the server ask for scram-sha-256, or add the method to allow_authentication.",
	})
}

func errInsecure(backend, method string) error {
	return refuse(ReasonMethod, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("server %q asks for %s authentication over a connection that does not protect it", backend, method),
		Hint:    `It needs backend_tls with mode = "verify-full", or a unix socket to the server.`,
	})
}

func errTrusted(backend, cluster, user string) error {
	return refuse(ReasonMethod, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("server %q asks no authentication of user %q, which cluster %q does not allow", backend, user, cluster),
		Hint:    "pg_hba.conf on the server trusts the proxy's address: use scram-sha-256 there.",
	})
}

func errChannelBinding(backend string) error {
	return refuse(ReasonChannelBinding, &wire.ErrorResponse{
		Code:    wire.InvalidAuthorizationSpecification,
		Message: fmt.Sprintf("SCRAM channel binding cannot reach server %q through the proxy", backend),
		Detail:  "What the client says of it holds for its own connection, and the server's has another certificate.",
		Hint: `Set authentication = "scram_passthrough" for the cluster, or give the server and the proxy the same certificate, ` +
			"or connect with channel_binding=disable.",
	})
}

func errWrongRole(backend string, d policy.Decision) error {
	return refuse(ReasonRole, &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: fmt.Sprintf("server %q is no longer a %s", backend, d.Target.Noun()),
		Hint:    "Reconnect to reach the right server.",
	})
}

// errDraining ends the sessions on a server that an operator takes out.
func errDraining(backend string) *wire.ErrorResponse {
	return &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: fmt.Sprintf("terminating connection because server %q is taken out of service", backend),
		Hint:    "Reconnect to reach another server.",
	}
}

func errFenced(st backends.State, lagging bool, target policy.Target) *wire.ErrorResponse {
	e := &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: fmt.Sprintf("terminating connection because server %q can no longer serve as %s", st.Target.Name, target.Noun()),
		Detail:  fmt.Sprintf("It is %s now.", st.Role),
		Hint:    "Reconnect to reach the right server.",
	}
	switch {
	case st.Status == backends.Pending: // promoted; what it waits for is not this session's concern
		e.Detail = fmt.Sprintf("It is %s now.", st.Claim)
	case st.Detail != "":
		e.Detail = fmt.Sprintf("It is %s now: %s.", st.Role, st.Detail)
	case lagging:
		e.Detail = "It lags behind the primary."
	}
	return e
}

func errRemoved(target backends.Target) *wire.ErrorResponse {
	return &wire.ErrorResponse{
		Code:    wire.AdminShutdown,
		Message: fmt.Sprintf("terminating connection because server %q was removed from cluster %q, or has another address now", target.Name, target.Cluster),
		Hint:    "Reconnect to reach the right server.",
	}
}

// forClient returns what the client is told about err.
func forClient(err error) *wire.ErrorResponse {
	var response *wire.ErrorResponse
	if errors.As(err, &response) {
		return response
	}
	return errInternal
}
