tls {
  certificate {
    cert_file = "missing.crt"
    key_file  = "missing.key"
  }
  certificate { cert_file = "missing.crt" }
  names = ["db.example.com", "not a name"]
}

cluster "plain" {
  allow_authentication = ["password", "oauth", "trust"]
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "/var/run/postgresql" }
  backend "db2" { address = "10.0.0.12:5432" }
}
cluster "unnamed" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend_tls { root_file = "missing.pem" }
  backend "db1" { address = "10.0.0.21:5432" }
}
cluster "require" {
  authentication       = "relay"
  allow_authentication = []
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend_tls {
    mode      = "require"
    root_file = "secret.txt"
  }
  backend "db1" { address = "10.0.0.31:5432" }
}
cluster "verify" {
  authentication = "relay"
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend_tls { mode = "verify-ca" }
  backend "db1" { address = "10.0.0.41:5432" }
}
cluster "off" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend_tls {
    mode        = "off"
    server_name = "db.example.com"
  }
  backend "db1" { address = "10.0.0.51:5432" }
}
cluster "sockets" {
  backend_tls {}
  backend "db1" { address = "/var/run/postgresql" }
}
cluster "empty" {}
