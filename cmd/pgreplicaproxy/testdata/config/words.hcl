listen { tls = "require" }
tls { min_version = "1.1" }

cluster "main" {
  authentication       = "scram"
  allow_authentication = ["scram-sha-265"]
  on_demoted  = "keep"
  on_promoted = "Drain"
  on_lagging  = ""
  on_conflict = "both"
  max_lag     = "16mb"
  system_identifier = "0x65"
  min_standbys_for_write = -1
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend_tls { mode = "prefer" }
  backend "db1" { address = "10.0.0.11:5432" }
}

route {
  role     = "standby"
  fallback = "always"
}

log {
  level  = "verbose"
  format = "xml"
}
