zone = ""

cluster "main" {
  hold_primary = "ten"
  hold_replica = "-1s"
  max_waiting  = 0
  max_dials    = 1000001
  slow_start   = 30

  max_session_age = "5s"
  rebalance       = "slowly"

  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" {
    address = "10.0.0.11:5432"
    zone    = "a\nb"
  }
}
route {
  fallback = "lagging"
}
