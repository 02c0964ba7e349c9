drain_timout = "30s"

listen {
  adress              = ":7432"
  proxy_protocol_from = ["10.0.0.0/8"]
}

cluster "main" {
  hold_primary = "10s"
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" {
    address = "10.0.0.11:5432"
    zone    = "a"
  }
}

metrics { address = "127.0.0.1:7434" }
