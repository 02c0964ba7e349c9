cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "127.0.0.1:5432" }
}
admin {
  address        = ":7433"
  token          = "hunter2"
  client_ca_file = "no-such-file.crt"
  cert_file      = "no-such-file.crt"
}
