tls {
  names = ["local.example.com"]
  acme {
    domains              = ["db.example.com", "DB.example.com", "*.example.com", "not a name", "::1"]
    directory            = "http://acme.example.com"
    root_file            = "missing.crt"
    challenge            = "tls-alpn-02"
    challenge_address    = "/run/acme.sock"
    renew_check_interval = "1ms"
    eab { key_id = "kid-1" }
    dns { exec = ["hook"] }
  }
}

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}
