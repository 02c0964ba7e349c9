tls {
  client_ca_file      = "missing.crt"
  client_certificates = "always"
  crl_file            = "missing.crl"

  client_map { common_name = "[" }
  client_map {
    users     = []
    same_user = "yes"
  }
}

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}
