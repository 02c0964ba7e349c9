package main

import "github.com/hashicorp/hcl/v2"

// The raw structs are the file as written: which blocks and arguments there are, and where they stand. An argument is
// nil where it was left out. Nothing is required here: config_*.go say what is missing and how to write it.

type rawConfig struct {
	User         *hcl.Attribute `hcl:"user,optional"`
	StateDir     *hcl.Attribute `hcl:"state_dir,optional"`
	DrainTimeout *hcl.Attribute `hcl:"drain_timeout,optional"`
	LoginTimeout *hcl.Attribute `hcl:"login_timeout,optional"`
	Zone         *hcl.Attribute `hcl:"zone,optional"`

	Listeners []*rawListener `hcl:"listen,block"`
	TLS       *rawTLS        `hcl:"tls,block"`
	Access    []*rawAccess   `hcl:"access,block"`
	Limits    *rawLimits     `hcl:"limits,block"`
	Clusters  []*rawCluster  `hcl:"cluster,block"`
	Routes    []*rawRoute    `hcl:"route,block"`
	Admin     *rawAdmin      `hcl:"admin,block"`
	Log       *rawLog        `hcl:"log,block"`
}

type rawListener struct {
	Def               hcl.Range      `hcl:",def_range"`
	Address           *hcl.Attribute `hcl:"address,optional"`
	TLS               *hcl.Attribute `hcl:"tls,optional"`
	ProxyProtocolFrom *hcl.Attribute `hcl:"proxy_protocol_from,optional"`
}

type rawTLS struct {
	ACME         *rawACME          `hcl:"acme,block"`
	Certificates []*rawCertificate `hcl:"certificate,block"`
	Names        *hcl.Attribute    `hcl:"names,optional"`
	MinVersion   *hcl.Attribute    `hcl:"min_version,optional"`

	ClientCAFile       *hcl.Attribute  `hcl:"client_ca_file,optional"`
	CRLFile            *hcl.Attribute  `hcl:"crl_file,optional"`
	ClientCertificates *hcl.Attribute  `hcl:"client_certificates,optional"`
	ClientMap          []*rawClientMap `hcl:"client_map,block"`
}

type rawClientMap struct {
	Def        hcl.Range      `hcl:",def_range"`
	CommonName *hcl.Attribute `hcl:"common_name,optional"`
	DNSName    *hcl.Attribute `hcl:"dns_name,optional"`
	Email      *hcl.Attribute `hcl:"email,optional"`
	URI        *hcl.Attribute `hcl:"uri,optional"`
	Users      *hcl.Attribute `hcl:"users,optional"`
	SameUser   *hcl.Attribute `hcl:"same_user,optional"`
}

type rawACME struct {
	Def                hcl.Range      `hcl:",def_range"`
	Domains            *hcl.Attribute `hcl:"domains,optional"`
	Email              *hcl.Attribute `hcl:"email,optional"`
	Directory          *hcl.Attribute `hcl:"directory,optional"`
	RootFile           *hcl.Attribute `hcl:"root_file,optional"`
	Profile            *hcl.Attribute `hcl:"profile,optional"`
	Challenge          *hcl.Attribute `hcl:"challenge,optional"`
	ChallengeAddress   *hcl.Attribute `hcl:"challenge_address,optional"`
	RenewCheckInterval *hcl.Attribute `hcl:"renew_check_interval,optional"`
	StorageDir         *hcl.Attribute `hcl:"storage_dir,optional"`
	StorageDSN         *hcl.Attribute `hcl:"storage_dsn,optional"`
	EAB                *rawEAB        `hcl:"eab,block"`
	DNS                *rawDNS        `hcl:"dns,block"`
}

type rawEAB struct {
	Def    hcl.Range      `hcl:",def_range"`
	KeyID  *hcl.Attribute `hcl:"key_id,optional"`
	MACKey *hcl.Attribute `hcl:"mac_key,optional"`
}

type rawDNS struct {
	Def          hcl.Range      `hcl:",def_range"`
	Exec         *hcl.Attribute `hcl:"exec,optional"`
	Server       *hcl.Attribute `hcl:"server,optional"`
	KeyName      *hcl.Attribute `hcl:"key_name,optional"`
	KeyAlgorithm *hcl.Attribute `hcl:"key_algorithm,optional"`
	KeySecret    *hcl.Attribute `hcl:"key_secret,optional"`
	Resolvers    *hcl.Attribute `hcl:"resolvers,optional"`
}

type rawCertificate struct {
	Def      hcl.Range      `hcl:",def_range"`
	CertFile *hcl.Attribute `hcl:"cert_file,optional"`
	KeyFile  *hcl.Attribute `hcl:"key_file,optional"`
}

type rawAccess struct {
	Def               hcl.Range      `hcl:",def_range"`
	Action            *hcl.Attribute `hcl:"action,optional"`
	From              *hcl.Attribute `hcl:"from,optional"`
	TLS               *hcl.Attribute `hcl:"tls,optional"`
	ClientCertificate *hcl.Attribute `hcl:"client_certificate,optional"`
	User              *hcl.Attribute `hcl:"user,optional"`
	UserPattern       *hcl.Attribute `hcl:"user_pattern,optional"`
	Database          *hcl.Attribute `hcl:"database,optional"`
	DatabasePattern   *hcl.Attribute `hcl:"database_pattern,optional"`
	Reason            *hcl.Attribute `hcl:"reason,optional"`
}

type rawLimits struct {
	Connections            *hcl.Attribute `hcl:"connections,optional"`
	ConnectionsPerAddress  *hcl.Attribute `hcl:"connections_per_address,optional"`
	ConnectionsPerPrefix   *hcl.Attribute `hcl:"connections_per_prefix,optional"`
	ConnectionsPerUser     *hcl.Attribute `hcl:"connections_per_user,optional"`
	ConnectionsPerDatabase *hcl.Attribute `hcl:"connections_per_database,optional"`
	Logins                 *hcl.Attribute `hcl:"logins,optional"`
	LoginsPerPrefix        *hcl.Attribute `hcl:"logins_per_prefix,optional"`
	Handshakes             *hcl.Attribute `hcl:"handshakes,optional"`
	HandshakesPerSecond    *hcl.Attribute `hcl:"handshakes_per_second,optional"`
	PrefixIPv4             *hcl.Attribute `hcl:"prefix_ipv4,optional"`
	PrefixIPv6             *hcl.Attribute `hcl:"prefix_ipv6,optional"`

	Reserved *rawReserved `hcl:"reserved,block"`
	Throttle *rawThrottle `hcl:"throttle,block"`
}

type rawReserved struct {
	Def      hcl.Range      `hcl:",def_range"`
	Places   *hcl.Attribute `hcl:"places,optional"`
	Users    *hcl.Attribute `hcl:"users,optional"`
	Networks *hcl.Attribute `hcl:"networks,optional"`
}

type rawThrottle struct {
	Def      hcl.Range      `hcl:",def_range"`
	Failures *hcl.Attribute `hcl:"failures,optional"`
	Delay    *hcl.Attribute `hcl:"delay,optional"`
	MaxDelay *hcl.Attribute `hcl:"max_delay,optional"`
}

type rawCluster struct {
	Name      string    `hcl:"name,label"`
	NameRange hcl.Range `hcl:"name,label_range"`
	Def       hcl.Range `hcl:",def_range"`

	Authentication      *hcl.Attribute `hcl:"authentication,optional"`
	AllowAuthentication *hcl.Attribute `hcl:"allow_authentication,optional"`
	SecretsFile         *hcl.Attribute `hcl:"secrets_file,optional"`
	MockKeyFile         *hcl.Attribute `hcl:"mock_key_file,optional"`
	AllowSuperusers     *hcl.Attribute `hcl:"allow_superusers,optional"`
	NameClients         *hcl.Attribute `hcl:"client_address_in_application_name,optional"`
	BroadcastCancels    *hcl.Attribute `hcl:"broadcast_cancels,optional"`

	HoldPrimary   *hcl.Attribute `hcl:"hold_primary,optional"`
	HoldReplica   *hcl.Attribute `hcl:"hold_replica,optional"`
	MaxWaiting    *hcl.Attribute `hcl:"max_waiting,optional"`
	MaxDials      *hcl.Attribute `hcl:"max_dials,optional"`
	SlowStart     *hcl.Attribute `hcl:"slow_start,optional"`
	MaxSessionAge *hcl.Attribute `hcl:"max_session_age,optional"`
	Rebalance     *hcl.Attribute `hcl:"rebalance,optional"`

	OnDemoted  *hcl.Attribute `hcl:"on_demoted,optional"`
	OnPromoted *hcl.Attribute `hcl:"on_promoted,optional"`
	OnLagging  *hcl.Attribute `hcl:"on_lagging,optional"`

	SystemIdentifier          *hcl.Attribute `hcl:"system_identifier,optional"`
	MaxLag                    *hcl.Attribute `hcl:"max_lag,optional"`
	AllowDelayed              *hcl.Attribute `hcl:"allow_delayed,optional"`
	OnConflict                *hcl.Attribute `hcl:"on_conflict,optional"`
	MinStandbysForWrite       *hcl.Attribute `hcl:"min_standbys_for_write,optional"`
	AllowSameTimelineTakeover *hcl.Attribute `hcl:"allow_same_timeline_takeover,optional"`

	Monitor    *rawMonitor    `hcl:"monitor,block"`
	BackendTLS *rawBackendTLS `hcl:"backend_tls,block"`
	Backends   []*rawBackend  `hcl:"backend,block"`
	Patroni    *rawPatroni    `hcl:"patroni,block"`
}

type rawMonitor struct {
	Def           hcl.Range      `hcl:",def_range"`
	User          *hcl.Attribute `hcl:"user,optional"`
	Password      *hcl.Attribute `hcl:"password,optional"`
	Database      *hcl.Attribute `hcl:"database,optional"`
	Interval      *hcl.Attribute `hcl:"interval,optional"`
	Timeout       *hcl.Attribute `hcl:"timeout,optional"`
	AllowAsClient *hcl.Attribute `hcl:"allow_as_client,optional"`
}

type rawBackendTLS struct {
	Def        hcl.Range      `hcl:",def_range"`
	Mode       *hcl.Attribute `hcl:"mode,optional"`
	RootFile   *hcl.Attribute `hcl:"root_file,optional"`
	ServerName *hcl.Attribute `hcl:"server_name,optional"`
}

type rawBackend struct {
	Name        string         `hcl:"name,label"`
	NameRange   hcl.Range      `hcl:"name,label_range"`
	Def         hcl.Range      `hcl:",def_range"`
	Address     *hcl.Attribute `hcl:"address,optional"`
	Weight      *hcl.Attribute `hcl:"weight,optional"`
	Zone        *hcl.Attribute `hcl:"zone,optional"`
	Resolve     *hcl.Attribute `hcl:"resolve,optional"`
	DNSServer   *hcl.Attribute `hcl:"dns_server,optional"`
	MaxSessions *hcl.Attribute `hcl:"max_sessions,optional"`

	SendProxyProtocol *hcl.Attribute `hcl:"send_proxy_protocol,optional"`
}

type rawPatroni struct {
	Def      hcl.Range      `hcl:",def_range"`
	URLs     *hcl.Attribute `hcl:"urls,optional"`
	Interval *hcl.Attribute `hcl:"interval,optional"`
	RootFile *hcl.Attribute `hcl:"root_file,optional"`
}

type rawRoute struct {
	Def             hcl.Range      `hcl:",def_range"`
	Database        *hcl.Attribute `hcl:"database,optional"`
	DatabasePattern *hcl.Attribute `hcl:"database_pattern,optional"`
	DatabaseSuffix  *hcl.Attribute `hcl:"database_suffix,optional"`
	User            *hcl.Attribute `hcl:"user,optional"`
	SNI             *hcl.Attribute `hcl:"sni,optional"`
	Cluster         *hcl.Attribute `hcl:"cluster,optional"`
	Role            *hcl.Attribute `hcl:"role,optional"`
	Fallback        *hcl.Attribute `hcl:"fallback,optional"`
	Replication     *hcl.Attribute `hcl:"replication,optional"`
}

type rawAdmin struct {
	Def          hcl.Range      `hcl:",def_range"`
	Address      *hcl.Attribute `hcl:"address,optional"`
	Token        *hcl.Attribute `hcl:"token,optional"`
	CertFile     *hcl.Attribute `hcl:"cert_file,optional"`
	KeyFile      *hcl.Attribute `hcl:"key_file,optional"`
	ClientCAFile *hcl.Attribute `hcl:"client_ca_file,optional"`
	Pprof        *hcl.Attribute `hcl:"pprof,optional"`
}

type rawLog struct {
	Level  *hcl.Attribute `hcl:"level,optional"`
	Format *hcl.Attribute `hcl:"format,optional"`
}
