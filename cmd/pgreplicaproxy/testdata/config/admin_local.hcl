cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "127.0.0.1:5432" }
}
admin {
  address        = "/run/pgreplicaproxy/admin.sock"
  token          = env("TEST_UNSET_VARIABLE")
  client_ca_file = "admin-ca.crt"
  cert_file      = "admin.crt"
  key_file       = "admin.key"
}
