tls {
  acme {
    domains           = []
    challenge         = "dns-01"
    challenge_address = ":80"
    eab {
      mac_key = "hunter2" + "x"
    }
    dns {
      exec          = ["hook"]
      server        = "ns1.example.com"
      key_name      = "acme-update"
      key_algorithm = "hmac-md5"
    }
  }
}

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}
