cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" {
    address      = "10.0.0.11:5432"
    max_sessions = -1
  }
}

limits {
  connections   = 10
  logins        = -1
  handshakes    = "many"
  prefix_ipv4   = 33
  prefix_ipv6   = 0
  sessions      = 10
  reserved {
    places   = 10
    networks = ["10.0.0.1/8"]
  }
  throttle {
    delay     = "1m"
    max_delay = "1s"
  }
}
