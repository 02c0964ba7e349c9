cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}

limits {
  connections = 0
  reserved {
    places = 1
    users  = ["postgres"]
  }
}
