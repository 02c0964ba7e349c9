package main

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/backends"
	"github.com/replicon/pgreplicaproxy/internal/admission"
	"github.com/replicon/pgreplicaproxy/internal/proxy"
	"github.com/replicon/pgreplicaproxy/policy"
	"github.com/replicon/pgreplicaproxy/tlsfront"
)

// What an argument is when the file leaves it out. pgreplicaproxy.hcl tells the operator the same; a test compares them.
const (
	defaultDrainTimeout = 30 * time.Second
	defaultLoginTimeout = 15 * time.Second

	defaultListenAddress = ":7432"
	defaultMinVersion    = uint16(tls.VersionTLS12)

	defaultChallenge          = tlsfront.ChallengeTLSALPN
	defaultTLSALPNAddress     = ":443"
	defaultHTTPAddress        = ":80"
	defaultRenewCheckInterval = 10 * time.Minute
	defaultKeyAlgorithm       = "hmac-sha256"
	defaultDNSPort            = "53"

	defaultAdminAddress = "127.0.0.1:7433"

	defaultMonitorUser     = "pgreplicaproxy"
	defaultMonitorDatabase = "postgres"
	defaultMonitorInterval = backends.DefaultInterval
	defaultMonitorTimeout  = backends.DefaultTimeout

	defaultMethods     = proxy.MethodSCRAM
	defaultTLSMode     = backends.TLSVerifyFull // of a backend_tls block; without the block there is no TLS
	defaultBackendPort = "5432"
	defaultWeight      = 1

	defaultHoldPrimary = 10 * time.Second
	defaultHoldReplica = 2 * time.Second
	defaultMaxWaiting  = 1000
	defaultMaxDials    = 32
	defaultSlowStart   = 30 * time.Second

	defaultOnDemoted  = proxy.HandleClose
	defaultOnPromoted = proxy.HandleDrain
	defaultOnLagging  = proxy.HandleLeave
	defaultOnConflict = backends.ConflictAuto

	defaultPatroniInterval = 2 * time.Second

	defaultTarget   = policy.TargetPrimary
	defaultFallback = policy.FallbackNever

	defaultLogLevel  = slog.LevelInfo
	defaultLogFormat = "auto"
)

// defaultMaxLag is what a streaming replica is rarely behind by.
var defaultMaxLag = backends.LagLimit{Bytes: 16 << 20}

// defaultLimits bound strangers and leave alone who is logged in: sessions are for the servers and the file to limit.
var defaultLimits = admission.Limits{
	Connections:         20_000,
	Logins:              5_000,
	LoginsPerPrefix:     1_000,
	HandshakesPerSecond: 1_000,
	PrefixIPv4:          24,
	PrefixIPv6:          64,
	Throttle:            admission.Throttle{Failures: 5, Delay: 500 * time.Millisecond, MaxDelay: 30 * time.Second},
}

func (c *converter) stateDir(a *hcl.Attribute) string {
	if a != nil {
		return c.path(c.text(a, ""))
	}
	dir, err := defaultStateDir(os.Geteuid(), os.Getenv)
	if err != nil {
		c.diags = append(c.diags, &hcl.Diagnostic{
			Severity: hcl.DiagError,
			Summary:  "No place for state",
			Detail:   `There is no directory to keep the local CA and the servers' roles in: ` + err.Error() + `. Write state_dir = "/some/directory".`,
		})
	}
	return dir
}

// defaultStateDir returns systemd's StateDirectory= where there is one, else the usual place: /var/lib for root, for
// others the one of the XDG Base Directory Specification, which wants relative paths ignored.
func defaultStateDir(euid int, getenv func(string) string) (string, error) {
	const name = "pgreplicaproxy"
	if dirs := getenv("STATE_DIRECTORY"); dirs != "" {
		first, _, _ := strings.Cut(dirs, ":")
		return first, nil
	}
	if euid == 0 {
		return "/var/lib/" + name, nil
	}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, name), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", name), nil
	}
	return "", errors.New("neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set")
}
