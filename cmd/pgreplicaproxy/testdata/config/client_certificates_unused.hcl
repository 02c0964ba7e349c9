tls {
  crl_file            = "clients.crl"
  client_certificates = "required"
}

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}
