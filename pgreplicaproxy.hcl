# Configuration of pgreplicaproxy. Every key is here; what is not a comment is needed, or shown with its default.
#
#   pgreplicaproxy check     says what is wrong with the file, and how to mend it
#   pgreplicaproxy fmt       lays it out
#   pgreplicaproxy sql       prints the SQL that creates the monitor's role
#
# Durations are written with their unit: "500ms", "10s", "2m". Relative paths start at the directory of this file.
# env("NAME"), env("NAME", "default") and file("path") bring in values from outside, secrets above all.

# Where the local CA is kept, and what the proxy must not forget about the servers' roles. Default: $STATE_DIRECTORY as systemd sets it, else this for root, and for others
# $XDG_STATE_HOME/pgreplicaproxy or ~/.local/state/pgreplicaproxy.
# state_dir = "/var/lib/pgreplicaproxy"

# Started as root, the program becomes this user once its sockets are bound. Certificates, keys and secrets must be readable
# for it, and state_dir its own. Left out, it stays whoever has started it.
# user = "pgreplicaproxy"

drain_timeout = "30s" # how long sessions may go on once they are asked to end
login_timeout = "15s" # from a client's first packet to the end of its login

# Where this proxy stands, in your own words. Replicas whose backend block has the same zone come before all others.
# zone = "a"

# Where clients connect. One block for each address; without any, this one.
listen {
  # "host:port", ":port" for every interface, "[::1]:port", or the absolute path of a socket file to make, such as
  # "/run/pgreplicaproxy/.s.PGSQL.7432" (clients then say host=/run/pgreplicaproxy port=7432).
  address = ":7432"

  # "optional" lets clients in without TLS as well: on loopback addresses and unix sockets only.
  tls = "required"

  # Load balancers that tell in a PROXY header, version 1 or 2, whom they speak for: "10.0.0.0/8", "10.0.0.1", and on a
  # unix socket "unix". From these the header is required, from all others it is refused.
  proxy_protocol_from = []
}

# What clients see. Without acme and certificates, the proxy has one of its own local CA; `pgreplicaproxy ca` prints the root
# for their sslrootcert.
tls {
  # Certificates that are obtained and renewed by ACME. These lines are enough for clients with sslrootcert=system where port 443
  # of the domains leads here; docs/certificates.md has more. Using it agrees to the terms of the ACME server.
  # acme {
  #   domains = ["db.example.com"]  # names and IP addresses, each with a certificate of its own; the first is the default
  #   email   = "ops@example.com"   # may be left out
  #
  #   directory            = "https://acme.example.com/directory" # default: Let's Encrypt
  #   root_file            = "acme-root.crt" # whom to trust at the directory's HTTPS; default: the system's roots
  #   profile              = "shortlived"    # a kind of certificate that the server offers
  #   challenge            = "tls-alpn-01"   # "http-01", or "dns-01" with a dns block
  #   challenge_address    = ":443"          # where challenges come in; ":80" for http-01. It may be the address of a listen block
  #   renew_check_interval = "10m"           # at most a twentieth of the certificates' life
  #
  #   # For proxies that share certificates, one of the two; without them, acme in state_dir is the place.
  #   storage_dir = "/srv/shared"
  #   storage_dsn = env("PGREPLICAPROXY_CERTIFICATES") # a PostgreSQL database: postgresql://user:password@host/database?sslmode=verify-full
  #
  #   eab { # what servers with accounts of their own hand out
  #     key_id  = "kid-1"
  #     mac_key = file("eab.key")
  #   }
  #   dns { # for dns-01, either of
  #     exec = ["/usr/local/bin/dns-hook"] # run with ACME_ACTION (present, cleanup), ACME_FQDN, ACME_VALUE in its environment
  #
  #     server        = "ns1.example.com:53" # takes dynamic updates (RFC 2136)
  #     key_name      = "acme-update"        # TSIG
  #     key_secret    = file("tsig.key")
  #     key_algorithm = "hmac-sha256"
  #
  #     resolvers = ["192.0.2.53:53"] # who is asked whether the record is there; default: the system's
  #   }
  # }

  # One block for each certificate; a client gets the one for the name it asks for, or the first.
  # certificate {
  #   cert_file = "server.crt" # PEM: the certificate, then its chain
  #   key_file  = "server.key"
  # }

  # Further host names and IP addresses for the local CA's certificate.
  names = []

  min_version = "1.2" # or "1.3"

  # Certificates of clients, which come beside the login and not in its place.
  # client_ca_file      = "clients-ca.crt" # asks clients for one, which has to be of these authorities
  # client_certificates = "optional"       # the default; "required" refuses clients that show none
  # crl_file            = "clients.crl"    # revoked ones; each authority needs a list here that is still valid

  # Whose certificate may log in as whom; without such a block, whoever has one may log in as anyone. Patterns as in
  # database_pattern; all that are set must match.
  # client_map {
  #   common_name = "app-*"
  #   dns_name    = "*.apps.example.com"
  #   email       = "*@example.com"
  #   uri         = "spiffe://example.com/*"
  #   users       = ["app", "reporting"]
  #   same_user   = false # true: also the user who is called as the common name
  # }
}

# Who may come in. The first block that matches decides; once there is one, whoever none of them takes is refused. Without any,
# everybody may come: the servers ask for the password in any case. `pgreplicaproxy check --explain user=app from=10.1.2.3`
# tells which block and which route a client meets.
# access {
#   action = "allow" # or "refuse", with a reason that the client reads
#   # All that are set must match. Networks, addresses, and "unix" for unix sockets:
#   from               = ["10.0.0.0/8", "2001:db8::/32", "unix"]
#   tls                = "any" # "required", "none"
#   client_certificate = "any" # "required", one that was verified, or "none"
#   user               = "app" # this name
#   database           = "app" # the name that the server sees, suffixes of routes cut off
# }
# access {
#   action           = "refuse"
#   user_pattern     = "admin_*" # * any characters but /, ? one, [a-z] one of a class
#   database_pattern = "*"
#   reason           = "administrators connect to the servers themselves"
# }

# What clients may take. 0 is no limit. Who meets one is told which, with SQLSTATE 53300. Cancel requests get through in any case.
limits {
  # Sessions that are logged in: in all, and of one address, network, user, and database (by the name the server knows).
  connections              = 20000
  connections_per_address  = 0
  connections_per_prefix   = 0
  connections_per_user     = 0
  connections_per_database = 0

  # Connections that are not logged in yet. Strangers can take no others.
  logins            = 5000
  logins_per_prefix = 1000

  # TLS handshakes that compute at a time, 0 for as many as there are processors; and of one network per second, after a
  # burst of twice as many.
  handshakes            = 0
  handshakes_per_second = 1000

  # What counts as one network.
  prefix_ipv4 = 24
  prefix_ipv6 = 64

  # Places among `connections` that only these may take. The networks are not held to the limits of logins and handshakes.
  # reserved {
  #   places   = 10
  #   users    = ["postgres"]
  #   networks = ["10.0.0.0/24"]
  # }

  # Failed logins of one user from one address: so many are free, then each attempt waits, twice as long with each failure.
  # A login that succeeds forgets them. Other users of the address do not wait. failures = 0 turns this off.
  throttle {
    failures  = 5
    delay     = "500ms"
    max_delay = "30s"
  }
}

# One primary and its standbys, each block with a name of its own. Which server is the primary is never written down:
# the monitor asks them.
cluster "main" {
  # How logins pass. "relay": every message between client and server unchanged. "scram_passthrough": the proxy ends SCRAM
  # by the roles' secrets, which it reads from the servers, and logs in with what the client has proven; no password is
  # ever known to it. It has to be written when the servers have TLS (see backend_tls): with "relay", clients that bind
  # SCRAM to the TLS connection, as psql and pgx do by default, then get in only where server and proxy present the same
  # certificate. docs/authentication.md compares the two.
  authentication = "relay"

  # With "scram_passthrough": a file of lines "role" "SCRAM-SHA-256$..." where nobody may read the servers' secrets, and
  # the key, 32 random bytes, of answers for unknown roles, the same on every proxy of the cluster. It is kept in
  # state_dir if left out.
  # Superusers log in only with allow_superusers, which changes what `pgreplicaproxy sql` prints too.
  # secrets_file     = "secrets.txt"
  # mock_key_file    = "mock.key"
  # allow_superusers = false

  # What a server may ask of a client. Beside SCRAM: "md5", "password" and "oauth" (both only over verify-full TLS or
  # unix sockets), "gss", "trust" (the server asks nothing).
  allow_authentication = ["scram-sha-256"]

  # true adds the client's address to the application_name that the server sees: "psql (192.0.2.7:40001)". Replication
  # connections keep theirs.
  client_address_in_application_name = false

  # true passes cancel requests (Ctrl-C in psql) for sessions that this program does not know to every server, 20 a second at
  # most: for several instances behind one address, where a request need not reach the one that its session is on.
  broadcast_cancels = false

  # A new session for which there is no server, or whose servers fail before it has begun, waits for one: for the primary, or
  # for a replica. The time does not count for login_timeout; "0s" refuses at once.
  hold_primary = "10s"
  hold_replica = "2s"
  max_waiting  = 1000 # so many wait at a time; no client address gets more places than are left for all others

  max_dials  = 32    # so many sessions are on their way to one server at a time
  slow_start = "30s" # in which a replica that comes back gets to its full share of the new sessions

  # Sessions stay where they are. These end some of them while they are idle, so that their clients reconnect.
  max_session_age = "0s"  # the age, give or take a fifth, at which one ends; "0s" is never
  rebalance       = false # true moves one in a hundred a second from the replica with the most, if another has a fifth less

  # What becomes of sessions whose server changes: "close" ends them at once, "drain" once they are idle and at the latest
  # after drain_timeout, "leave" not at all. On a server that is down, silent or contradicted by another primary they
  # always end at once.
  on_demoted  = "close" # the primary is a replica now
  on_promoted = "drain" # the replica is the primary now
  on_lagging  = "leave" # the replica fell behind

  # How far a replica may be behind the primary before new sessions avoid it: bytes of the write-ahead log in PostgreSQL's
  # units, or a time such as "30s", or 0 for any. It is back when it is below half of that. A standby that replays late on
  # purpose (recovery_min_apply_delay) is served only with allow_delayed, and then measured by what it has received.
  max_lag       = "16MB"
  allow_delayed = false

  # The number that `SELECT system_identifier FROM pg_control_system()` tells on every server of the cluster; a server that tells
  # another one is never served. If left out, it is the one on which all servers agree when the proxy first sees them.
  # system_identifier = "7345678901234567890"

  # While two servers claim to be the primary, and neither is on a timeline that the cluster has left: "auto" believes the
  # one that most of the other servers stream from, or of two alone the newer one once the older has no standby left, and
  # serves neither while that does not tell; "newest" believes the higher timeline, "keep" the one that was served before,
  # "refuse" serves neither. `pgreplicaproxy accept` ends every conflict.
  on_conflict = "auto"

  # A primary with fewer standbys than this is not served: it may be cut off from all others. 0 needs none.
  min_standbys_for_write = 0

  # true takes a primary on the timeline of one that is down for its successor even if it was no standby before: for servers
  # that take over each other's data, and primaries that come back at another address.
  allow_same_timeline_takeover = false

  # The role with which the proxy asks the servers how they are. `pgreplicaproxy sql` prints how to create it.
  monitor {
    user     = "pgreplicaproxy"
    password = env("PGREPLICAPROXY_MONITOR_PASSWORD") # or file("monitor.password"); none where the server asks for none
    database = "postgres"

    interval = "1s" # between two questions to one server
    timeout  = "1s" # for an answer

    # true lets clients log in as this role too.
    allow_as_client = false
  }

  # TLS to the servers; without the block there is none. Unix sockets have none in any case.
  # backend_tls {
  #   # "verify-full" is the default within the block; "verify-ca" takes any name, "require" any certificate, "off" is
  #   # no TLS.
  #   mode = "verify-full"
  #
  #   # PEM file with the CAs to trust; the system's if left out.
  #   root_file = "server-ca.crt"
  #
  #   # The name in the servers' certificates, if it is not the host of the address.
  #   server_name = "db.example.com"
  # }

  # The servers: "host:port", with 5432 if the port is left out, or the absolute path of the directory that holds a
  # unix socket, such as "/var/run/postgresql" or "/var/run/postgresql:5433".
  backend "db1" {
    address = "10.0.0.11:5432"
    weight  = 1 # share of the sessions against its peers; 0 keeps new ones away
    # zone  = "a" # where the server stands; see zone at the top

    # For a DNS name with several addresses, such as a headless service: each address is a server of its own, named "db1-" and
    # the address, and the name is looked up again at this interval. Servers whose address is gone from two answers drain; as
    # long as there is no answer all stay.
    # resolve    = "20s"
    # dns_server = "10.0.0.53" # whom to ask, with a port if it is not 53; the system's servers if left out

    # Sessions that the server is given at a time; 0 is no limit.
    max_sessions = 0

    # true begins each connection with a PROXY header of version 2. PostgreSQL does not understand it: it is for another
    # proxy in the place of the server.
    send_proxy_protocol = false
  }
  backend "db2" { address = "10.0.0.12:5432" }

  # Patroni's REST interface, of any members. Without backend blocks, its members are the servers, those with the tag
  # noloadbalance only as the primary. With or without, its leader is believed where two servers say that they are the
  # primary; what a server says of itself counts all the same.
  # patroni {
  #   urls      = ["https://10.0.0.11:8008", "https://10.0.0.12:8008"]
  #   interval  = "2s"
  #   root_file = "patroni-ca.crt" # PEM file with the CAs to trust; the system's if left out
  # }
}

# Which session goes where. The first route that matches decides, except that routes with `database` come before all
# others. Without any route block the only cluster gets these two.
route {
  # At most one of the three; none matches every name. The suffix is cut off before the server sees the name.
  # database         = "app"    # this name
  # database_pattern = "app_*"  # * any characters but /, ? one, [a-z] one of a class
  database_suffix = "_replica"

  # All that are set must match.
  # user = "reporting"      # this user
  # sni  = "ro.example.com" # this name, as the client's TLS asked for it

  cluster  = "main"    # may be left out while there is one only
  role     = "replica" # "primary" is the default; "any" takes both
  fallback = "never"   # with role = "replica": "no_replica" uses the primary while there is no replica, "lagging" also while all lag

  # true: the route takes replication connections, and only those.
  replication = false
}
route { role = "primary" }

# Where the program tells how it is, over HTTP: the status page at /, /status and /sessions as JSON, /events, /metrics for
# Prometheus, /livez, and /readyz, /readyz/primary and /readyz/replica, which are 200 while every cluster has such a server.
# Without the block it listens on the unix socket admin.sock in state_dir, for the commands status, sessions, drain and so on.
# admin {
#   # Whoever reaches a loopback address may read. A unix socket is open to the user that the proxy runs as and to root.
#   address = "127.0.0.1:7433"
#
#   # What changes are allowed by, and reading from elsewhere: Authorization: Bearer TOKEN. Left out, it is a random one in
#   # the file admin.token of state_dir, where the commands find it.
#   # token = env("PGREPLICAPROXY_ADMIN_TOKEN")
#
#   # For an address that others reach, such as ":7433", there is TLS, and a client certificate of this CA, or the token, is
#   # wanted for everything but /livez and /readyz. One of the two has to be written then. Without cert_file the listener
#   # shows the certificates that clients see.
#   # client_ca_file = "admin-ca.crt"
#   # cert_file      = "admin.crt"
#   # key_file       = "admin.key"
#
#   pprof = false # true adds Go's profiles under /debug/pprof/
# }

log {
  level  = "info" # "debug", "info", "warn", "error"
  format = "auto" # "text" on a terminal, else "json"
}
