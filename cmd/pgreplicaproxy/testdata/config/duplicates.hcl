listen { address = ":7432" }
listen { address = "127.0.0.1:7432" }
listen { address = "[::]:7432" }
listen { address = "[::1]:7433" }
listen { address = "[0:0::1]:7433" }
listen { address = "/run/pg.sock" }
listen { address = "/run//pg.sock" }

tls { min_version = "1.2" }
tls { min_version = "1.3" }

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
  backend "db1" { address = "10.0.0.12:5432" }
  backend "db3" { address = "10.0.0.11" }
}
cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.21:5432" }
}

route { cluster = "main" }
