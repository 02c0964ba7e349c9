user          = "nobody"
state_dir     = "state"
drain_timeout = "1m"
login_timeout = "500ms"
zone          = "a"

listen {
  address             = "0.0.0.0:7432"
  proxy_protocol_from = ["10.0.0.0/8", "2001:db8::1"]
}
listen {
  address = "[::1]:7432"
  tls     = "optional"
}
listen {
  address = "127.0.0.1:7433"
  tls     = "optional"
}
listen {
  address = "/run/pgreplicaproxy/.s.PGSQL.7432"
  tls     = "optional"
}

tls {
  names       = ["db.example.com", "*.db.example.com", "192.0.2.1", "2001:db8::1"]
  min_version = "1.3"
}

access {
  action             = "refuse"
  from               = ["unix", "10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]
  tls                = "none"
  client_certificate = "required"
  user               = "app"
  database           = "app"
  reason             = "because"
}
access {
  action           = "allow"
  user_pattern     = "a*"
  database_pattern = "b?"
}

limits {
  connections              = 100
  connections_per_address  = 1
  connections_per_prefix   = 2
  connections_per_user     = 3
  connections_per_database = 4
  logins                   = 5
  logins_per_prefix        = 6
  handshakes               = 7
  handshakes_per_second    = 8
  prefix_ipv4              = 32
  prefix_ipv6              = 48
  reserved {
    places   = 9
    users    = ["postgres"]
    networks = ["10.0.0.1"]
  }
  throttle {
    failures  = 10
    delay     = "1s"
    max_delay = "1m"
  }
}

cluster "main" {
  authentication       = "relay"
  allow_authentication = ["scram-sha-256", "md5", "password", "oauth", "gss"]

  client_address_in_application_name = true
  broadcast_cancels                  = true

  hold_primary = "0s"
  hold_replica = "3s"
  max_waiting  = 5
  max_dials    = 6
  slow_start   = "7s"

  max_session_age = "8h"
  rebalance       = true

  on_demoted  = "drain"
  on_promoted = "leave"
  on_lagging  = "close"

  system_identifier            = "7345678901234567890"
  max_lag                      = "90s"
  allow_delayed                = true
  on_conflict                  = "keep"
  min_standbys_for_write       = 1
  allow_same_timeline_takeover = true

  monitor {
    user            = "watcher"
    password        = env("TEST_UNSET_VARIABLE", "fallback")
    database        = "watched"
    interval        = "2s"
    timeout         = "1500ms"
    allow_as_client = true
  }
  backend_tls { server_name = "db.example.com" }
  backend "db1" {
    address = "db1.example.com"
    weight  = 3
    zone    = "a"

    max_sessions = 11
  }
  backend "db2" {
    address             = "[2001:db8::2]:5433"
    send_proxy_protocol = true
  }
  backend "db3" { address = "2001:db8::3" }
  backend "db4" { address = "/var/run/postgresql:5433" }
}

cluster "other" {
  monitor { password = file("secret.txt") }
  backend "db1" { address = "10.0.0.21:5432" }
}

cluster "found" {
  monitor { password = file("secret.txt") }
  patroni {
    urls     = ["http://10.0.0.11:8008", "http://10.0.0.12:8008/"]
    interval = "3s"
  }
}

cluster "named" {
  monitor { password = file("secret.txt") }
  backend "pool" {
    address    = "db.internal"
    weight     = 2
    resolve    = "20s"
    dns_server = "10.0.0.53"
  }
  backend "db1" { address = "db1.internal:5432" }
  patroni { urls = ["http://10.0.0.11:8008"] }
}

route {
  database_pattern = "app_*"
  user             = "reporting"
  sni              = "ro.example.com"
  cluster          = "main"
  role             = "replica"
  fallback         = "no_replica"
}
route {
  replication = true
  cluster     = "main"
}
route {
  database_suffix = "_any"
  cluster         = "other"
  role            = "any"
}
route { cluster = "other" }

admin {
  address = "0.0.0.0:7434"
  token   = file("secret.txt")
  pprof   = true
}

log {
  level  = "debug"
  format = "json"
}
