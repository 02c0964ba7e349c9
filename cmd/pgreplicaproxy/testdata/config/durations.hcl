drain_timeout = "30"
login_timeout = "0s"

cluster "main" {
  monitor {
    password = env("TEST_MONITOR_PASSWORD")
    interval = "a while"
    timeout  = "-1s"
  }
  backend "db1" { address = "10.0.0.11:5432" }
}
