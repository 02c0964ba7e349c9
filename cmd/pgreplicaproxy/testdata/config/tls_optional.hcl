listen {
  address = "192.0.2.1:7432"
  tls     = "optional"
}
listen { tls = "optional" }
listen {
  address = "localhost:7433"
  tls     = "optional"
}

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}
